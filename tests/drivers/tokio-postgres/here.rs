//! Where the tests find their server: not on port 5433, and its superuser has a password.

use tokio_postgres::{Client, Config, Connection, Error, NoTls, Socket, tls::NoTlsStream};

fn of(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|e| panic!("{variable}: {e}"))
}

pub fn address() -> (&'static str, u16) {
    ("127.0.0.1", of("PGPORT").parse().unwrap())
}

/// A test's parameters, with the password that its own server does not ask for.
pub fn config(text: &str) -> Result<Config, Error> {
    let mut config: Config = text.replace("5433", &of("PGPORT")).parse()?;
    if config.get_user() == Some("postgres") && config.get_password().is_none() {
        config.password(of("PGPASSWORD"));
    }
    Ok(config)
}

pub async fn connect(
    text: &str,
    tls: NoTls,
) -> Result<(Client, Connection<Socket, NoTlsStream>), Error> {
    config(text)?.connect(tls).await
}
