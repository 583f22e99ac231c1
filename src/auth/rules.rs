//! Which rule a connection falls under: pg_hba.conf's semantics over the rules of our configuration.

use std::net::IpAddr;

use crate::config::{Address, AuthMethod, Rule, RuleType};

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket.
    Local,
    Host {
        ip: IpAddr,
        tls: bool,
    },
}

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    pub origin: Origin,
    pub database: &'a str,
    pub user: &'a str,
    /// A connection for physical replication; it has no database.
    pub physical: bool,
    /// The roles that the user is a member of, directly or not, with the role itself; empty when
    /// there is no such role.
    pub groups: &'a [String],
}

/// What is asked for by the first rule that fits; `None`: no rule does.
pub fn method(rules: &[Rule], connection: &Connection<'_>) -> Option<AuthMethod> {
    rules.iter().find(|rule| fits(rule, connection)).map(|rule| rule.method)
}

/// Whether the rules can be read only with the user's groups at hand.
pub fn look_at_groups(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| {
        rule.database.0.iter().any(|n| n == "samerole" || n == "samegroup")
            || rule.user.0.iter().any(|n| n.starts_with('+'))
    })
}

fn fits(rule: &Rule, c: &Connection<'_>) -> bool {
    let here = match (rule.kind, c.origin) {
        (RuleType::Local, Origin::Local) => true,
        (RuleType::Local, Origin::Host { .. }) | (_, Origin::Local) => false,
        (kind, Origin::Host { ip, tls }) => {
            let encrypted = match kind {
                RuleType::HostSsl => tls,
                RuleType::HostNoSsl => !tls,
                RuleType::Host | RuleType::Local => true,
            };
            encrypted && rule.address.unwrap_or(Address::All).contains(ip)
        }
    };
    here && rule.database.0.iter().any(|name| is_database(name, c))
        && rule.user.0.iter().any(|name| is_user(name, c))
}

fn is_database(name: &str, c: &Connection<'_>) -> bool {
    if c.physical {
        return name == "replication";
    }
    match name {
        "all" => true,
        "sameuser" => c.database == c.user,
        "samerole" | "samegroup" => c.groups.iter().any(|g| g == c.database),
        "replication" => false,
        name => unquoted(name) == c.database,
    }
}

fn is_user(name: &str, c: &Connection<'_>) -> bool {
    match name.strip_prefix('+') {
        Some(group) => c.groups.iter().any(|g| g == unquoted(group)),
        None => name == "all" || unquoted(name) == c.user,
    }
}

/// A name in quotes is no keyword.
fn unquoted(name: &str) -> &str {
    name.strip_prefix('"').and_then(|n| n.strip_suffix('"')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        #[derive(serde::Deserialize)]
        struct File {
            rules: Vec<Rule>,
        }
        toml::from_str::<File>(text).unwrap().rules
    }

    fn network(ip: &str, tls: bool) -> Origin {
        Origin::Host { ip: ip.parse().unwrap(), tls }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = rules(
            r#"
            [[rules]]
            type = "local"
            method = "peer"
            [[rules]]
            type = "hostnossl"
            address = "10.0.0.0/8"
            method = "reject"
            [[rules]]
            type = "host"
            database = ["app", "sameuser"]
            user = ["ann", "+staff"]
            address = "10.0.0.0/8"
            method = "md5"
            [[rules]]
            type = "hostssl"
            database = "\"all\""
            method = "cert"
            [[rules]]
            type = "host"
            database = "samerole"
            method = "password"
            [[rules]]
            type = "host"
            database = "replication"
            user = "\"+odd\""
            method = "trust"
            "#,
        );
        assert!(look_at_groups(&rules));
        let asked = |origin, database, user, groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
            let c = Connection { origin, database, user, physical: false, groups: &groups };
            method(&rules, &c)
        };
        use AuthMethod::*;
        let (near, far) = (network("10.1.1.1", true), network("8.8.8.8", true));
        for (origin, database, user, groups, wanted) in [
            (Origin::Local, "app", "ann", &[][..], Some(Peer)),
            (network("10.1.1.1", false), "app", "ann", &[], Some(Reject)),
            (near, "app", "ann", &[], Some(Md5)),
            (near, "bob", "bob", &[], None),
            (near, "bob", "bob", &["bob", "staff"], Some(Md5)),
            (near, "app", "bob", &["bob"], None),
            (near, "all", "bob", &["bob"], Some(Cert)),
            (network("8.8.8.8", false), "all", "bob", &["bob"], None),
            (far, "bob", "bob", &["bob"], Some(Password)),
            (far, "club", "bob", &["bob", "club"], Some(Password)),
            // A database of this name is no replication.
            (far, "replication", "+odd", &[], None),
        ] {
            assert_eq!(
                asked(origin, database, user, groups),
                wanted,
                "{origin:?} {database} {user}"
            );
        }
        let physical =
            Connection { origin: far, database: "", user: "+odd", physical: true, groups: &[] };
        assert_eq!(method(&rules, &physical), Some(Trust));
        let local = Connection { origin: Origin::Local, ..physical };
        assert_eq!(method(&rules, &local), None, "\"all\" is no replication");
    }
}
