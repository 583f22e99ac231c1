//! Statements about roles: CREATE, ALTER and DROP ROLE (USER, GROUP), and grants of roles to roles.
//!
//! The home node runs the client's own text in a session that is the client's in every respect, so
//! a right, an error and the one salt of a new password are PostgreSQL's own. What came of it is
//! then read from its catalogs and made so on the other nodes: a role has the same verifier
//! everywhere, since clients log in to all nodes with a key derived from it.

use futures_util::future::try_join_all;
use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{self, ObjectType};
use pg_raw_parse::raw::RoleSpecType;
use postgres_protocol::escape::escape_identifier as ident;

use super::objects::{self, Which};
use super::roles::{Memberships, Part};
use super::{DdlError, Everywhere, Peer, Who, roles};
use crate::catalog::raise_epoch;
use crate::router::changes_reading;

/// A role as a statement may write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    Name(String),
    CurrentUser,
    SessionUser,
}

impl Spec {
    /// Who is meant.
    pub(super) fn name(&self, who: &Who) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::CurrentUser => who.role.clone(),
            Self::SessionUser => who.session.clone(),
        }
    }
}

/// Which default is set, and in which database; `None` is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub parameter: Option<String>,
    pub database: Option<String>,
}

impl Setting {
    fn new(set: Option<&nodes::VariableSetStmt>, database: Option<&str>) -> Self {
        let parameter = set.and_then(|s| s.name()).map(str::to_ascii_lowercase);
        Self { parameter, database: database.map(Into::into) }
    }

    /// Refuses defaults the router would have to know, as it does for a session of the cluster's own
    /// database before it comes here.
    async fn is_allowed(&self, all: &Everywhere) -> Result<(), DdlError> {
        let known = self.parameter.as_deref().filter(|p| changes_reading(p));
        let Some(parameter) = known.filter(|_| all.routes.tables().next().is_some()) else {
            return Ok(());
        };
        let sql = "SELECT $1 = current_database()::text";
        if let Some(database) = &self.database
            && !all.home.client.query_one(sql, &[database]).await?.try_get(0)?
        {
            return Ok(());
        }
        Err(DdlError::unsupported(format!(
            "a default for {parameter} is not supported beside distributed tables"
        ))
        .hint("Let each session SET it."))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleChange {
    Create {
        role: String,
    },
    Alter {
        role: Spec,
        members: Vec<Spec>,
    },
    Rename {
        from: String,
        to: String,
    },
    /// `None` is ALL.
    Set {
        role: Option<Spec>,
        setting: Setting,
    },
    /// ALTER DATABASE ... SET: the defaults of all roles in one database.
    SetForDatabase {
        setting: Setting,
    },
    Drop {
        roles: Vec<Spec>,
    },
    Grant {
        groups: Vec<String>,
        members: Vec<Spec>,
        is_grant: bool,
    },
}

impl RoleChange {
    /// `None`: the statement is not about roles.
    pub fn parse(node: Node<'_>) -> Option<Result<Self, DdlError>> {
        Some(match node {
            Node::CreateRoleStmt(s) => named(s.role()).map(|role| Self::Create { role }),
            Node::AlterRoleStmt(s) => alter(s),
            Node::RenameStmt(s) if s.rename_type == ObjectType::OBJECT_ROLE => rename(s),
            Node::AlterRoleSetStmt(s) => {
                let setting = Setting::new(s.setstmt(), s.database());
                s.role().map(spec).transpose().map(|role| Self::Set { role, setting })
            }
            Node::AlterDatabaseSetStmt(s) => {
                Ok(Self::SetForDatabase { setting: Setting::new(s.setstmt(), s.dbname()) })
            }
            Node::DropRoleStmt(s) => specs(s.roles()).map(|roles| Self::Drop { roles }),
            Node::GrantRoleStmt(s) => grant(s),
            _ => return None,
        })
    }

    pub(super) fn tag(&self) -> &'static str {
        match self {
            Self::Create { .. } => "CREATE ROLE",
            Self::Alter { .. } | Self::Rename { .. } | Self::Set { .. } => "ALTER ROLE",
            Self::SetForDatabase { .. } => "ALTER DATABASE",
            Self::Drop { .. } => "DROP ROLE",
            Self::Grant { is_grant: true, .. } => "GRANT ROLE",
            Self::Grant { is_grant: false, .. } => "REVOKE ROLE",
        }
    }
}

fn alter(s: &nodes::AlterRoleStmt) -> Result<RoleChange, DdlError> {
    let role = spec(s.role().ok_or_else(super::statement::broken)?)?;
    let mut members = Vec::new();
    for option in s.options().iter().filter(|o| o.defname() == Some("rolemembers")) {
        let list = option.arg().as_node_list().ok_or_else(super::statement::broken)?;
        members.extend(specs(list)?);
    }
    Ok(RoleChange::Alter { role, members })
}

fn rename(s: &nodes::RenameStmt) -> Result<RoleChange, DdlError> {
    Ok(RoleChange::Rename { from: named(s.subname())?, to: named(s.newname())? })
}

fn grant(s: &nodes::GrantRoleStmt) -> Result<RoleChange, DdlError> {
    let group = |n: Node<'_>| match n {
        Node::AccessPriv(p) => named(p.priv_name()),
        _ => Err(super::statement::broken()),
    };
    Ok(RoleChange::Grant {
        groups: s.granted_roles().iter().map(group).collect::<Result<_, _>>()?,
        members: specs(s.grantee_roles())?,
        is_grant: s.is_grant,
    })
}

fn named(name: Option<&str>) -> Result<String, DdlError> {
    name.map(str::to_owned).ok_or_else(super::statement::broken)
}

pub(super) fn specs(list: &NodeList) -> Result<Vec<Spec>, DdlError> {
    list.iter()
        .map(|n| match n {
            Node::RoleSpec(s) => spec(s),
            _ => Err(super::statement::broken()),
        })
        .collect()
}

fn spec(s: &nodes::RoleSpec) -> Result<Spec, DdlError> {
    Ok(match s.roletype {
        RoleSpecType::ROLESPEC_CSTRING => Spec::Name(named(s.rolename())?),
        RoleSpecType::ROLESPEC_CURRENT_USER | RoleSpecType::ROLESPEC_CURRENT_ROLE => {
            Spec::CurrentUser
        }
        RoleSpecType::ROLESPEC_SESSION_USER => Spec::SessionUser,
        // No role can be called so, and PostgreSQL says that.
        _ => Spec::Name("public".into()),
    })
}

/// What the other nodes are to take over from the home node.
enum Follow {
    Roles { roles: Vec<String>, parts: &'static [Part] },
    DefaultsOfAll,
    Renamed { from: String, to: String },
    Dropped(Vec<String>),
    Memberships(Memberships),
}

/// Carries the statement out on all nodes, up to the commit.
pub(super) async fn run(
    all: Everywhere,
    by: super::Client<'_>,
    change: &RoleChange,
) -> Result<Everywhere, DdlError> {
    if let RoleChange::Set { setting, .. } | RoleChange::SetForDatabase { setting } = change {
        setting.is_allowed(&all).await?;
    }
    let all = all.run_text(by.request, by.who).await?;

    let name = |s: &Spec| s.name(by.who);
    let names = |specs: &[Spec]| specs.iter().map(name).collect::<Vec<_>>();
    let follow = match change {
        RoleChange::Create { role } => Follow::Roles {
            roles: vec![role.clone()],
            parts: &[Part::Attributes, Part::Defaults, Part::Memberships],
        },
        RoleChange::Alter { role, members } if members.is_empty() => {
            Follow::Roles { roles: vec![name(role)], parts: &[Part::Attributes] }
        }
        RoleChange::Alter { role, members } => {
            Follow::Memberships(Memberships::Between(vec![name(role)], names(members)))
        }
        RoleChange::Rename { from, to } => Follow::Renamed { from: from.clone(), to: to.clone() },
        RoleChange::Set { role: Some(role), .. } => {
            Follow::Roles { roles: vec![name(role)], parts: &[Part::Defaults] }
        }
        RoleChange::Set { role: None, .. } | RoleChange::SetForDatabase { .. } => {
            Follow::DefaultsOfAll
        }
        RoleChange::Drop { roles } => Follow::Dropped(names(roles)),
        RoleChange::Grant { groups, members, .. } => {
            Follow::Memberships(Memberships::Between(groups.clone(), names(members)))
        }
    };
    let others = all.others.iter();
    try_join_all(others.map(async |node| {
        on_node(&all.home, node, &follow).await.map_err(|e| e.on_node(&node.node.name))
    }))
    .await?;
    if matches!(change, RoleChange::Create { .. } | RoleChange::Rename { .. }) {
        // A schema may be called like it, which "$user" means from now on.
        raise_epoch(&*all.home.client).await?;
    }
    Ok(all)
}

async fn on_node(home: &Peer, node: &Peer, follow: &Follow) -> Result<(), DdlError> {
    let (home, node) = (&*home.client, &*node.client);
    match follow {
        Follow::Roles { roles, parts } => roles::bring(home, node, roles, parts).await,
        Follow::DefaultsOfAll => roles::bring_defaults_of_all(home, node).await,
        Follow::Renamed { from, to } => {
            let there =
                node.query_opt("SELECT FROM pg_roles WHERE rolname::text = $1", &[from]).await?;
            if there.is_some() {
                let sql = format!("ALTER ROLE {} RENAME TO {}", ident(from), ident(to));
                node.batch_execute(&sql).await?;
            }
            // An md5 verifier is gone with the name it was made for.
            roles::bring(home, node, std::slice::from_ref(to), &[Part::Attributes]).await
        }
        Follow::Dropped(roles) => {
            // What the home node's objects do not say of them any more.
            objects::bring_schemas(home, node, Which::All).await?;
            objects::bring_database(home, node, Which::All).await?;
            objects::bring_parameters(home, node).await?;
            let list = roles.iter().map(|r| ident(r)).collect::<Vec<_>>().join(", ");
            Ok(node.batch_execute(&format!("DROP ROLE IF EXISTS {list}")).await?)
        }
        Follow::Memberships(which) => roles::bring_memberships(home, node, which).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sql: &str) -> RoleChange {
        let parsed = crate::sql::tree::parse(sql).expect(sql);
        RoleChange::parse(parsed.stmts().next().expect(sql)).expect(sql).expect(sql)
    }

    fn name(name: &str) -> Spec {
        Spec::Name(name.into())
    }

    #[test]
    fn all_forms_are_read() {
        for sql in ["CREATE ROLE a", "CREATE USER a PASSWORD 'p'", "CREATE GROUP a USER b, c"] {
            assert_eq!(parse(sql), RoleChange::Create { role: "a".into() }, "{sql}");
        }
        for sql in ["ALTER ROLE a LOGIN", "ALTER USER a WITH PASSWORD NULL"] {
            assert_eq!(parse(sql), RoleChange::Alter { role: name("a"), members: vec![] }, "{sql}");
        }
        for sql in
            ["ALTER GROUP g ADD USER b, CURRENT_USER", "ALTER GROUP g DROP USER b, CURRENT_ROLE"]
        {
            let members = vec![name("b"), Spec::CurrentUser];
            assert_eq!(parse(sql), RoleChange::Alter { role: name("g"), members }, "{sql}");
        }
        assert_eq!(
            parse("ALTER ROLE \"A\" RENAME TO b"),
            RoleChange::Rename { from: "A".into(), to: "b".into() }
        );
        let setting = |parameter: Option<&str>, database: Option<&str>| Setting {
            parameter: parameter.map(Into::into),
            database: database.map(Into::into),
        };
        assert_eq!(
            parse("ALTER ROLE SESSION_USER SET Work_mem = '1MB'"),
            RoleChange::Set {
                role: Some(Spec::SessionUser),
                setting: setting(Some("work_mem"), None)
            }
        );
        assert_eq!(
            parse("ALTER ROLE ALL RESET ALL"),
            RoleChange::Set { role: None, setting: setting(None, None) }
        );
        let in_d = setting(Some("work_mem"), Some("d"));
        assert_eq!(
            parse("ALTER USER ALL IN DATABASE d SET work_mem = 64"),
            RoleChange::Set { role: None, setting: in_d.clone() }
        );
        assert_eq!(
            parse("ALTER DATABASE d SET work_mem = 64"),
            RoleChange::SetForDatabase { setting: in_d }
        );
        assert_eq!(
            parse("DROP USER IF EXISTS a, b"),
            RoleChange::Drop { roles: vec![name("a"), name("b")] }
        );
        for (sql, is_grant, tag) in [
            ("GRANT g, h TO a WITH ADMIN OPTION", true, "GRANT ROLE"),
            ("REVOKE ADMIN OPTION FOR g, h FROM a", false, "REVOKE ROLE"),
        ] {
            let groups = vec!["g".into(), "h".into()];
            let change = RoleChange::Grant { groups, members: vec![name("a")], is_grant };
            assert_eq!(parse(sql), change, "{sql}");
            assert_eq!(change.tag(), tag);
        }
    }

    #[test]
    fn other_grants_and_renames_are_not_about_roles() {
        for sql in ["GRANT SELECT ON t TO a", "ALTER TABLE t RENAME TO u", "SELECT 1"] {
            let parsed = crate::sql::tree::parse(sql).expect(sql);
            assert!(RoleChange::parse(parsed.stmts().next().expect(sql)).is_none(), "{sql}");
        }
    }
}
