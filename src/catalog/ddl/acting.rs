//! The client's text on the home node, as the client and as nobody else.
//!
//! A control connection is logged in as the service role, a superuser, and whoever can make such a session
//! say `SET ROLE NONE` or `RESET SESSION AUTHORIZATION` is that superuser again. So neither the client's
//! settings nor its text are ever sent to the session as they are. They are arguments of a function that
//! belongs to the client's role and is SECURITY DEFINER: within it, and within all that it calls,
//! PostgreSQL refuses to change `role` and `session_authorization` at all. The role itself is worked out
//! here, from values, and PostgreSQL judges whether the client may take it on.
//!
//! Whose session it is, is a type: [`Everywhere`] is the service's and writes catalogs, [`AsClient`] can
//! run the text of a [`DdlRequest`] and nothing else. Nobody outside of this file can read that text.

use pg_raw_parse::raw::VariableSetKind;
use pg_raw_parse::{ConstValue, Node, nodes};
use postgres_protocol::escape::{escape_identifier as ident, escape_literal as literal};
use tokio_postgres::error::DbError;

use super::everywhere::LOCK_TIMEOUT;
use super::statement::{self, Statement};
use super::{DdlError, Everywhere, Peer};
use crate::router::{Conversion, reads_alike};
use crate::sql::tree;

/// One statement of a client.
#[derive(Debug, Clone)]
pub struct DdlRequest {
    /// The role the client logged in as.
    login: String,
    /// The session's parameters in order: the name, and the SQL that put it in force on the session's
    /// own connection.
    settings: Vec<(String, String)>,
    sql: String,
}

impl DdlRequest {
    pub fn new(
        login: impl Into<String>,
        settings: Vec<(String, String)>,
        sql: impl Into<String>,
    ) -> Self {
        Self { login: login.into(), settings, sql: sql.into() }
    }

    /// The role the client logged in as.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The table that it makes one of another kind, with its rows, if that is what it does.
    pub fn conversion(&self) -> Option<Conversion> {
        match self.statement() {
            Ok(Statement::Convert { to, .. }) => Some(to),
            _ => None,
        }
    }

    /// What is asked for.
    pub(super) fn statement(&self) -> Result<Statement, DdlError> {
        statement::parse(&self.sql)
    }
}

/// The client as the home node sees it, with all its settings in force.
#[derive(Debug, Clone)]
pub(super) struct Who {
    /// What CURRENT_USER means.
    pub role: String,
    /// What SESSION_USER means.
    pub session: String,
    pub superuser: bool,
    /// The schemas in which a name without one is looked up, those nobody wrote among them.
    pub path: Vec<String>,
    /// The schema in which CREATE makes what is named without one.
    pub creates_in: Option<String>,
    /// `pgshunt.shard_count`, if the session has set it.
    pub shard_count: Option<String>,
    login: String,
    /// What is put in force when the home node acts as the client, in order.
    puts: Vec<Put>,
}

/// A parameter put in force: SQL that only the client's own role runs.
#[derive(Debug, Clone)]
struct Put {
    sql: String,
    /// A default that PostgreSQL would only have warned of at the login.
    is_default: bool,
}

/// The session acts as the client, until [`AsClient::back`].
#[must_use]
pub(super) struct AsClient {
    all: Everywhere,
}

impl Everywhere {
    /// Who the client is.
    pub(super) async fn meet(
        self,
        request: &DdlRequest,
        tag: &str,
    ) -> Result<(Self, Who), DdlError> {
        let mut who = Who::named(&self.home, request).await?;
        let client = self.act_as(&who).await?;
        client.describe(&mut who, tag).await?;
        let all = client.back().await?;
        let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname::text = $1";
        who.superuser = all.home.client.query_one(superuser, &[&who.role]).await?.try_get(0)?;
        Ok((all, who))
    }

    /// Runs the client's text as the client.
    pub(super) async fn run_text(self, request: &DdlRequest, who: &Who) -> Result<Self, DdlError> {
        let client = self.act_as(who).await?;
        client.run(&request.sql).await?;
        client.back().await
    }

    /// Runs the client's text as the client with `word` put in at a byte of it.
    pub(super) async fn run_text_with(
        self,
        request: &DdlRequest,
        who: &Who,
        (at, word): (usize, &str),
    ) -> Result<Self, DdlError> {
        let (Some(before), Some(rest)) = (request.sql.get(..at), request.sql.get(at..)) else {
            return Err(statement::broken());
        };
        let first = u32::try_from(before.chars().count()).unwrap_or(u32::MAX);
        let longer = u32::try_from(word.chars().count()).unwrap_or(0);
        let client = self.act_as(who).await?;
        client.run(&format!("{before}{word}{rest}")).await.map_err(|mut e| {
            e.position = e.position.map(|p| if p > first { p.saturating_sub(longer) } else { p });
            e
        })?;
        client.back().await
    }

    /// Runs statements of ours with the rights and settings of the client.
    pub(super) async fn run_as(self, who: &Who, sql: &str) -> Result<Self, DdlError> {
        let client = self.act_as(who).await?;
        client.run(sql).await?;
        client.back().await
    }

    async fn act_as(self, who: &Who) -> Result<AsClient, DdlError> {
        let home = &self.home;
        home.run(&format!(
            "{ACT}; ALTER FUNCTION pg_temp.pgshunt_act(text, boolean) OWNER TO {}",
            ident(&who.role)
        ))
        .await?;
        home.client.execute(DEFAULTS, &[]).await?;
        home.set("client_min_messages", "notice").await?;
        become_client(home, &who.session, &who.role).await?;
        let client = AsClient { all: self };
        for put in &who.puts {
            client.act(&put.sql, put.is_default).await?;
        }
        // The client may wait for less, but not for longer: the nodes do not see each other's locks.
        let most = LOCK_TIMEOUT.as_millis();
        let set: String = client.all.home.client.query_one(LOCKS, &[]).await?.try_get(0)?;
        if !set.parse().is_ok_and(|ms: u128| (1..=most).contains(&ms)) {
            client.all.home.set("lock_timeout", &most.to_string()).await?;
        }
        Ok(client)
    }
}

impl Peer {
    /// Runs a statement of ours, that evaluates what a table's owner has written, with the owner's rights, which
    /// nothing of it can lay down.
    pub(super) async fn run_as_owner(&self, owner: &str, sql: &str) -> Result<(), DdlError> {
        // Nothing temporary: the transaction is to be prepared. It is gone before anybody sees it.
        let act = ACT.replace("pg_temp.", "pgshunt.");
        let whose = ident(owner);
        self.run(&format!(
            "{act}; ALTER FUNCTION pgshunt.pgshunt_act(text, boolean) OWNER TO {whose}"
        ))
        .await?;
        become_client(self, owner, owner).await?;
        self.client.execute("SELECT pgshunt.pgshunt_act($1, $2)", &[&sql, &false]).await?;
        self.back().await?;
        self.run("DROP FUNCTION pgshunt.pgshunt_act(text, boolean)").await
    }
}

impl AsClient {
    /// Runs one statement of the client's. Errors point into it.
    async fn run(&self, sql: &str) -> Result<(), DdlError> {
        self.act(sql, false).await
    }

    async fn act(&self, sql: &str, forgiving: bool) -> Result<(), DdlError> {
        let call = "SELECT pg_temp.pgshunt_act($1, $2)";
        match self.all.home.client.execute(call, &[&sql, &forgiving]).await {
            Ok(_) => Ok(()),
            Err(e) => Err(e.as_db_error().map(|e| own_words(e, sql)).unwrap_or_else(|| e.into())),
        }
    }

    /// Reads what the client's settings mean. The words are ours; the search_path is not.
    async fn describe(&self, who: &mut Who, tag: &str) -> Result<(), DdlError> {
        let row = self.all.home.client.query_one(DESCRIBE, &[]).await?;
        let (read_only, standard): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if read_only == "on" {
            let message = format!("cannot execute {tag} in a read-only transaction");
            return Err(DdlError::new("25006", message));
        }
        if standard == "off" {
            return Err(DdlError::unsupported("DDL needs standard_conforming_strings = on")
                .hint("SET standard_conforming_strings = on first."));
        }
        let shard_count: Option<String> = row.try_get(2)?;
        who.shard_count = shard_count.filter(|s| !s.is_empty());
        who.path = row.try_get(3)?;
        who.creates_in = row.try_get(4)?;
        Ok(())
    }

    /// The session is the service role's again, and nothing of the client's settings is left.
    async fn back(self) -> Result<Everywhere, DdlError> {
        self.all.home.back().await?;
        self.all.home.run("DROP FUNCTION IF EXISTS pg_temp.pgshunt_act(text, boolean)").await?;
        Ok(self.all)
    }
}

/// PostgreSQL judges whether the one may become the other.
async fn become_client(home: &Peer, session: &str, role: &str) -> Result<(), DdlError> {
    home.set("session_authorization", session).await?;
    home.set("role", if role == session { "none" } else { role }).await
}

impl Who {
    /// What the request says of itself. What the settings mean is asked when they are in force.
    async fn named(home: &Peer, request: &DdlRequest) -> Result<Self, DdlError> {
        let login = request.login.clone();
        let mut who = Self {
            role: login.clone(),
            session: login.clone(),
            superuser: false,
            path: Vec::new(),
            creates_in: None,
            shard_count: None,
            login,
            puts: Vec::new(),
        };
        for row in home.client.query(LOGIN_DEFAULTS, &[&who.login]).await? {
            let entry: String = row.try_get(0)?;
            let Some((name, value)) = entry.split_once('=') else { continue };
            let sql = format!(
                "SELECT pg_catalog.set_config({}, {}, false)",
                literal(name),
                literal(value)
            );
            who.put(name, &sql, true, request)?;
        }
        for (name, sql) in &request.settings {
            who.put(name, sql, false, request)?;
        }
        if who.session != who.login {
            let superuser = "SELECT rolsuper FROM pg_roles WHERE rolname::text = $1";
            let row = home.client.query_opt(superuser, &[&who.login]).await?;
            if !row.map(|r| r.try_get(0)).transpose()?.unwrap_or(false) {
                let message = "permission denied to set session authorization";
                return Err(DdlError::new("42501", message));
            }
        }
        Ok(who)
    }

    fn put(
        &mut self,
        name: &str,
        sql: &str,
        is_default: bool,
        request: &DdlRequest,
    ) -> Result<(), DdlError> {
        match name.to_ascii_lowercase().as_str() {
            "session_authorization" => {
                self.session = identity_in(sql)?.unwrap_or_else(|| self.login.clone());
                self.role = self.session.clone();
            }
            "role" => {
                let role = identity_in(sql)?.filter(|r| r != "none");
                self.role = role.unwrap_or_else(|| self.session.clone());
            }
            // It would step over the fence of a move.
            "session_replication_role" => {}
            // The text has been read, and it is sent on, as UTF8.
            "client_encoding" => {
                let value = setting_in(sql).unwrap_or(None).unwrap_or_default();
                if !reads_alike("client_encoding", &value) && !request.sql.is_ascii() {
                    return Err(DdlError::unsupported("DDL needs client_encoding = UTF8")
                        .hint("SET client_encoding = 'UTF8' first."));
                }
            }
            _ => self.puts.push(Put { sql: sql.to_owned(), is_default }),
        }
        Ok(())
    }
}

/// The role that such a setting names; `None`: the one it was before anybody named one.
fn identity_in(sql: &str) -> Result<Option<String>, DdlError> {
    setting_in(sql).ok_or_else(|| {
        DdlError::unsupported("cannot tell as which role the statement is to run")
            .hint("SET ROLE to a role by its name.")
    })
}

/// The value of a SET or a set_config(); within it `None`: RESET, or SET to DEFAULT.
fn setting_in(sql: &str) -> Option<Option<String>> {
    let parsed = tree::parse(sql).ok()?;
    let mut statements = parsed.stmts();
    let (Some(only), None) = (statements.next(), statements.next()) else { return None };
    match only {
        Node::VariableSetStmt(s) => match s.kind {
            VariableSetKind::VAR_SET_VALUE => {
                let mut values = s.args().iter();
                match (values.next(), values.next()) {
                    (Some(value), None) => text_of(value).map(Some),
                    _ => None,
                }
            }
            VariableSetKind::VAR_SET_DEFAULT | VariableSetKind::VAR_RESET => Some(None),
            _ => None,
        },
        Node::SelectStmt(s) => {
            let mut targets = s.target_list().iter();
            let (Some(target), None) = (targets.next(), targets.next()) else { return None };
            set_config_in(target.val()).map(Some)
        }
        _ => None,
    }
}

fn set_config_in(call: Node<'_>) -> Option<String> {
    let Node::FuncCall(f) = call else { return None };
    let f: &nodes::FuncCall = f;
    let name = f.funcname().iter().filter_map(Node::as_str).next_back();
    if name != Some("set_config") {
        return None;
    }
    f.args().iter().nth(1).and_then(text_of)
}

fn text_of(value: Node<'_>) -> Option<String> {
    let Node::A_Const(c) = value else { return None };
    match c.val()? {
        ConstValue::String(s) => Some(s.to_owned()),
        _ => None,
    }
}

/// The error as it would be if the statement had been sent as it is.
fn own_words(e: &DbError, sql: &str) -> DdlError {
    let mut error = DdlError::from(e);
    if let Some((position, query)) = error.fields.internal.take() {
        if query == sql {
            error.position = Some(position);
        } else {
            error.fields.internal = Some((position, query));
        }
    }
    error.fields.context = error.fields.context.as_deref().and_then(|c| own_context(c, sql));
    error
}

/// The lines of an error's context that are not about our function.
fn own_context<'a>(context: &'a str, sql: &str) -> Option<String> {
    let Some((head, _)) = context.rsplit_once(".pgshunt_act(") else {
        return Some(context.to_owned());
    };
    let without_last_line = |text: &'a str| text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let mut rest = without_last_line(head);
    if let Some(before) = rest.strip_suffix(&format!("\"{sql}\"")) {
        rest = without_last_line(before);
    }
    (!rest.is_empty()).then(|| rest.to_owned())
}

/// Belongs to the client's role while the session acts as it.
const ACT: &str = "\
CREATE OR REPLACE FUNCTION pg_temp.pgshunt_act(text, boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $pgshunt$
BEGIN
  IF $2 THEN
    BEGIN EXECUTE $1; EXCEPTION WHEN OTHERS THEN NULL; END;
  ELSE
    EXECUTE $1;
  END IF;
END $pgshunt$";

/// What a login finds in force where this session said something else when it began.
const DEFAULTS: &str = "\
SELECT set_config(s.name, coalesce((SELECT f.setting FROM pg_file_settings f
    WHERE lower(f.name) = lower(s.name) AND f.error IS NULL ORDER BY f.seqno DESC LIMIT 1),
  s.boot_val), true)
FROM (SELECT name, boot_val FROM pg_settings WHERE source IN ('client', 'session')
    AND context IN ('user', 'superuser') AND name NOT IN ('application_name', 'client_encoding',
      'role', 'session_authorization', 'session_replication_role')) s
WHERE s.boot_val IS NOT NULL";

/// ALTER ROLE ... SET and its like, as a login reads them: the most particular last.
const LOGIN_DEFAULTS: &str = "\
SELECT e.entry FROM pg_db_role_setting s, unnest(s.setconfig) WITH ORDINALITY AS e (entry, nth)
WHERE s.setrole IN (0, coalesce((SELECT oid FROM pg_roles WHERE rolname::text = $1), 0))
  AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
ORDER BY s.setrole <> 0, s.setdatabase <> 0, e.nth";

/// In milliseconds.
const LOCKS: &str = "\
SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'lock_timeout'";

const DESCRIBE: &str = "\
SELECT pg_catalog.current_setting('default_transaction_read_only'),
  pg_catalog.current_setting('standard_conforming_strings'),
  pg_catalog.current_setting('pgshunt.shard_count', true),
  pg_catalog.current_schemas(true)::pg_catalog.text[],
  (pg_catalog.current_schemas(false))[1]::pg_catalog.text";
