//! How clients prove who they are: auth_type, auth_hba_file and auth_file, and the certificates they
//! may have to show.

use std::fs;
use std::path::PathBuf;

use super::hba::{self, Line};
use super::plan::Maker;
use super::settings::Fate;
use crate::config::{AuthMethod, Rule, RuleType, Users};

/// What becomes of it.
#[derive(Debug)]
pub struct Auth {
    pub method: &'static str,
    pub rules: Vec<Rule>,
    pub user_file: Option<PathBuf>,
}

/// TLS to clients.
#[derive(Debug)]
pub struct ClientTls {
    pub mode: &'static str,
    pub cert: Option<String>,
    pub key: Option<String>,
    pub authority: Option<String>,
}

impl Maker<'_> {
    /// `[auth]`, once TLS is known.
    pub fn auth(&mut self, tls: &ClientTls) -> Auth {
        let user_file = self.user_file();
        let (method, rules) = self.method(tls);
        if tls.mode != "require" {
            let in_clear = |r: &Rule| {
                r.method == AuthMethod::Password
                    && matches!(r.kind, RuleType::Host | RuleType::HostNoSsl)
            };
            let (name, setting) = match rules.iter().find(|r| in_clear(r)) {
                Some(rule) => (Some("auth_hba_file"), rule.to_string()),
                None => ((method == "password").then_some("auth_type"), "plain".into()),
            };
            if let Some(name) = name {
                let place = self.place(name);
                let advice = "A password in clear is taken only under TLS or on a Unix socket.";
                self.say(&place, format!("{name}: {setting}"), Fate::Lack(advice));
            }
        }
        self.certificates(tls, method, &rules);
        Auth { method, rules, user_file }
    }

    /// PgBouncer lets nobody in without a certificate when it verifies them; here a method does that.
    fn certificates(&mut self, tls: &ClientTls, method: &str, rules: &[Rule]) {
        let asks = |r: &Rule| {
            r.kind == RuleType::Local || matches!(r.method, AuthMethod::Cert | AuthMethod::Reject)
        };
        let all_ask = if rules.is_empty() { method == "cert" } else { rules.iter().all(asks) };
        if tls.authority.is_some() && !all_ask {
            let place = self.place("client_tls_sslmode");
            let what = format!("client_tls_sslmode = {}", self.setting("client_tls_sslmode"));
            let advice = "A certificate that a client shows must be of the authority, but who shows none is \
                          asked for a password: method \"cert\" takes nobody without one.";
            self.say(&place, what, Fate::Lack(advice));
        }
    }

    fn user_file(&mut self) -> Option<PathBuf> {
        let file = self.given("auth_file")?;
        let path = self.beside(&file);
        let place = self.place("auth_file");
        let users = fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| {
            Users::parse(&text).map_err(|(line, why)| format!("{}:{line}: {why}", path.display()))
        });
        match users.and_then(|u| Ok((u, std::path::absolute(&path).map_err(|e| e.to_string())?))) {
            Err(error) => {
                let advice = format!(
                    "{error}. Passwords are those of the roles on the home node; [auth] user_file takes \
                     such a file."
                );
                self.tell(&place, format!("auth_file = {file} cannot be read"), advice, true);
                None
            }
            Ok((users, path)) => {
                let what = format!("auth_file = {file} has {} users", users.len());
                let advice = "It is [auth] user_file. Each of them must be a role of the nodes, too; a role that \
                              is not in the file logs in with its password on the home node.";
                self.tell(&place, what, advice, false);
                Some(path)
            }
        }
    }

    fn method(&mut self, tls: &ClientTls) -> (&'static str, Vec<Rule>) {
        let place = self.place("auth_type");
        let auth = self.setting("auth_type").to_owned();
        let what = format!("auth_type = {auth}");
        let method = match auth.as_str() {
            "trust" => "trust",
            "any" => {
                let advice = "\"trust\" was taken: each client is the role it names, and no other.";
                self.say(&place, what, Fate::Lack(advice));
                "trust"
            }
            "scram-sha-256" => "scram-sha-256",
            "md5" => "md5",
            "plain" => "password",
            "peer" => "peer",
            "cert" if tls.authority.is_some() => "cert",
            "cert" => {
                let advice = "It needs client_tls_sslmode = verify-full and client_tls_ca_file; \"scram-sha-256\" \
                              was taken.";
                self.say(&place, what, Fate::Lack(advice));
                "scram-sha-256"
            }
            "hba" => return ("scram-sha-256", self.rules(tls.authority.is_some())),
            _ => {
                let advice = "\"scram-sha-256\" was taken: give the roles passwords.";
                self.say(&place, what, Fate::Lack(advice));
                "scram-sha-256"
            }
        };
        (method, Vec::new())
    }

    /// The rules of an auth_hba_file.
    fn rules(&mut self, has_authority: bool) -> Vec<Rule> {
        let place = self.place("auth_hba_file");
        let Some(file) = self.given("auth_hba_file") else {
            let advice = "PgBouncer lets nobody in so; \"scram-sha-256\" was taken for everybody.";
            self.say(&place, "auth_type = hba without auth_hba_file", Fate::Lack(advice));
            return Vec::new();
        };
        let path = self.beside(&file);
        let found = match hba::read(&path, has_authority) {
            Ok(found) => found,
            Err(error) => {
                let what = format!("auth_hba_file = {file} cannot be read");
                let advice = format!("{error}. \"scram-sha-256\" was taken for everybody.");
                self.tell(&place, what, advice, true);
                return Vec::new();
            }
        };
        let mut rules = Vec::new();
        for line in found {
            let at = format!("{}:{}", path.display(), line.number);
            match line.line {
                Line::Rule(rule) => rules.push(rule),
                Line::Rejects(rule, why) => {
                    rules.push(rule);
                    self.tell(&at, line.text, why, true);
                }
                Line::PassedOver(why) => self.tell(&at, line.text, why, true),
            }
        }
        if rules.is_empty() {
            let advice = "PgBouncer lets nobody in so; \"scram-sha-256\" was taken for everybody.";
            self.say(&place, format!("auth_hba_file = {file} has no rules"), Fate::Lack(advice));
        }
        rules
    }

    pub fn client_tls(&mut self) -> ClientTls {
        let (cert, key) = (self.given("client_tls_cert_file"), self.given("client_tls_key_file"));
        let mode = self.setting("client_tls_sslmode").to_owned();
        let place = self.place("client_tls_sslmode");
        let what = format!("client_tls_sslmode = {mode}");
        let mut authority = None;
        let wanted = match mode.as_str() {
            "disable" => "disable",
            "allow" | "prefer" => "allow",
            "require" => "require",
            // For PgBouncer the two are the same.
            "verify-ca" | "verify-full" => {
                authority = self.given("client_tls_ca_file");
                if authority.is_none() {
                    let advice =
                        "It needs client_tls_ca_file; \"require\" was taken, without certificates.";
                    self.say(&place, what.clone(), Fate::Lack(advice));
                }
                "require"
            }
            _ => {
                self.say(
                    &place,
                    what.clone(),
                    Fate::Lack("PgBouncer has no such mode; \"disable\" was taken."),
                );
                "disable"
            }
        };
        if wanted != "disable" && (cert.is_none() || key.is_none()) {
            let advice = "It needs client_tls_cert_file and client_tls_key_file; TLS is off now.";
            self.say(&place, what, Fate::Lack(advice));
            return ClientTls { mode: "disable", cert, key, authority: None };
        }
        ClientTls { mode: wanted, cert, key, authority }
    }
}
