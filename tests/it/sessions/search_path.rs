//! The leak that gives PgBouncer's users another tenant's rows: a search_path that stays on the
//! server connection when it goes to the next client.

use tokio_postgres::{Client, Statement};

use super::*;

/// Two tenants of one schema each, with a table of one name, and the functions that tests use.
async fn tenants() -> [(Proxy, Client, Client); 2] {
    let worlds = worlds().await;
    for (_, a, _) in &worlds {
        does(
            a,
            "CREATE TABLE public.bill (owner text);
         INSERT INTO public.bill VALUES ('nobody');
         CREATE SCHEMA acme;
         CREATE TABLE acme.bill AS SELECT 'acme'::text AS owner;
         CREATE SCHEMA bolt;
         CREATE TABLE bolt.bill AS SELECT 'bolt'::text AS owner;
         CREATE FUNCTION enter(tenant text) RETURNS text LANGUAGE plpgsql AS $$
           BEGIN
             PERFORM set_config('search_path', tenant, false);
             PERFORM set_config('app.tenant', tenant, false);
             RETURN tenant;
           END $$;
         CREATE FUNCTION enter_here(tenant text) RETURNS void LANGUAGE plpgsql AS $$
           BEGIN PERFORM set_config('search_path', tenant, true); END $$;
         CREATE FUNCTION public.whose() RETURNS text LANGUAGE sql
           SET search_path = acme AS 'SELECT owner FROM bill';
         CREATE PROCEDURE enter_by_call(tenant text) LANGUAGE plpgsql AS $$
           BEGIN EXECUTE format('SET search_path = %I', tenant); END $$;",
        )
        .await;
    }
    worlds
}

async fn owner(client: &Client) -> String {
    value(client, "SELECT owner FROM bill").await
}

async fn owner_simply(client: &Client) -> String {
    texts(client, "SELECT owner FROM bill").await.remove(0)
}

/// Each finds its own rows, whoever was served before, in either protocol.
async fn each_sees(a: (&Client, &str), b: (&Client, &str)) {
    for _ in 0..2 {
        for (client, wanted) in [a, b] {
            assert_eq!(owner(client).await, wanted);
            assert_eq!(owner_simply(client).await, wanted);
        }
    }
}

/// The ways to set it for the session, told by how the statement for a tenant reads.
fn ways(tenant: &str) -> Vec<String> {
    vec![
        format!("SET search_path = {tenant}"),
        format!("SET SESSION search_path TO {tenant}, public"),
        format!("SELECT set_config('search_path', '{tenant}', false)"),
        format!("SELECT pg_catalog.set_config('SEARCH_PATH', concat('{tenant}', ''), false)"),
        format!("BEGIN; SET search_path = {tenant}; COMMIT"),
        format!("SELECT 1; SET search_path = {tenant}; SELECT 2"),
        format!("SET search_path = nonsense; SET search_path = {tenant}"),
        format!("SELECT public.enter('{tenant}')"),
        format!("CALL public.enter_by_call('{tenant}')"),
        format!("DO $$ BEGIN SET search_path = {tenant}; END $$"),
        format!("DO $$ BEGIN EXECUTE 'SET search_' || 'path = {tenant}'; END $$"),
    ]
}

#[tokio::test]
async fn one_tenants_search_path_never_serves_another() {
    for (proxy, a, b) in tenants().await {
        for (way, other) in ways("acme").iter().zip(ways("bolt")) {
            println!("{way}");
            does(&a, way).await;
            each_sees((&a, "acme"), (&b, "nobody")).await;
            does(&b, &other).await;
            each_sees((&a, "acme"), (&b, "bolt")).await;
            let late = proxy.client().await;
            assert_eq!(owner(&late).await, "nobody", "a new client after {way}");
            does(&a, "RESET search_path").await;
            each_sees((&a, "nobody"), (&b, "bolt")).await;
            does(&b, "DISCARD ALL").await;
            each_sees((&a, "nobody"), (&b, "nobody")).await;
        }
        assert_eq!(pinned_by(&proxy).await, ["", ""], "nobody needed a connection of his own");
    }
}

#[tokio::test]
async fn a_search_path_for_a_transaction_ends_with_it() {
    for (_proxy, a, b) in tenants().await {
        for way in [
            "SET LOCAL search_path = acme",
            "SELECT set_config('search_path', 'acme', true)",
            "SELECT public.enter_here('acme')",
        ] {
            for end in ["COMMIT", "ROLLBACK", "SELECT 1/0; COMMIT"] {
                does(&a, &format!("BEGIN; {way}")).await;
                assert_eq!(owner(&a).await, "acme", "{way}");
                if end.contains('/') {
                    assert_eq!(fails(&a, "SELECT 1/0").await, "22012");
                    does(&a, "COMMIT").await;
                } else {
                    does(&a, end).await;
                }
                each_sees((&b, "nobody"), (&a, "nobody")).await;
            }
        }
        assert_eq!(value::<String>(&a, "SELECT whose()").await, "acme");
        each_sees((&b, "nobody"), (&a, "nobody")).await;
    }
}

#[tokio::test]
async fn a_search_path_of_a_transaction_that_failed_is_gone() {
    for (_proxy, a, b) in tenants().await {
        for way in ways("acme") {
            if way.starts_with("BEGIN") || way.starts_with("CALL") {
                continue;
            }
            println!("{way}");
            does(&a, "BEGIN").await;
            does(&a, &way).await;
            assert_eq!(owner(&a).await, "acme", "{way}");
            assert_eq!(fails(&a, "SELECT 1/0").await, "22012");
            does(&a, "ROLLBACK").await;
            each_sees((&b, "nobody"), (&a, "nobody")).await;
            assert_eq!(fails(&a, &format!("{way}; SELECT 1/0")).await, "22012");
            each_sees((&b, "nobody"), (&a, "nobody")).await;
        }
        does(&a, "BEGIN; SET search_path = acme; SAVEPOINT s; SET search_path = bolt").await;
        assert_eq!(fails(&a, "SELECT 1/0").await, "22012");
        does(&a, "ROLLBACK TO s; COMMIT").await;
        each_sees((&b, "nobody"), (&a, "acme")).await;
    }
}

/// A client whose startup packet asks for this.
async fn with_options(proxy: &Proxy, options: &str) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(proxy.port()).dbname(DATABASE).user(SUPERUSER);
    config.password(PASSWORD).options(options);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn the_search_path_of_a_startup_packet_is_its_clients_own() {
    for (proxy, a, _b) in tenants().await {
        let acme = with_options(&proxy, "-c search_path=acme,public").await;
        let bolt = with_options(&proxy, "--search-path=bolt").await;
        each_sees((&acme, "acme"), (&bolt, "bolt")).await;
        each_sees((&a, "nobody"), (&acme, "acme")).await;
        does(&acme, "SET search_path = bolt").await;
        each_sees((&acme, "bolt"), (&a, "nobody")).await;
        does(&acme, "RESET search_path").await;
        each_sees((&acme, "acme"), (&a, "nobody")).await;
        does(&acme, "SELECT public.enter('bolt')").await;
        each_sees((&acme, "bolt"), (&a, "nobody")).await;
        does(&acme, "RESET ALL").await;
        each_sees((&acme, "acme"), (&bolt, "bolt")).await;
        does(&bolt, "SELECT public.enter('acme')").await;
        does(&bolt, "DISCARD ALL").await;
        each_sees((&acme, "acme"), (&bolt, "bolt")).await;
    }
}

#[tokio::test]
async fn the_search_path_of_a_role_is_its_own() {
    for (proxy, a, b) in tenants().await {
        does(&a, "CREATE ROLE acme_app LOGIN SUPERUSER PASSWORD 'x'").await;
        does(&a, "ALTER ROLE acme_app SET search_path = acme").await;
        let app = connect_as(proxy.port(), DATABASE, "acme_app", "x").await.unwrap();
        each_sees((&app, "acme"), (&b, "nobody")).await;
        does(&app, "SET search_path = bolt").await;
        each_sees((&app, "bolt"), (&b, "nobody")).await;
        does(&app, "RESET search_path").await;
        each_sees((&app, "acme"), (&b, "nobody")).await;
        // SET ROLE takes none of the role's defaults, as in PostgreSQL.
        does(&a, "SET ROLE acme_app").await;
        each_sees((&a, "nobody"), (&b, "nobody")).await;
    }
}

/// The statement is prepared once on the connection they share, for texts that are the same.
#[tokio::test]
async fn a_statement_prepared_under_another_search_path_is_ones_own() {
    for (_proxy, a, b) in tenants().await {
        async fn run(client: &Client, s: &Statement) -> String {
            client.query_one(s, &[]).await.unwrap().get(0)
        }
        does(&a, "SET search_path = acme").await;
        does(&b, "SET search_path = bolt").await;
        let (sa, sb) = (
            a.prepare("SELECT owner FROM bill").await.unwrap(),
            b.prepare("SELECT owner FROM bill").await.unwrap(),
        );
        // Often enough for a generic plan.
        for _ in 0..8 {
            assert_eq!(run(&a, &sa).await, "acme");
            assert_eq!(run(&b, &sb).await, "bolt");
        }
        does(&a, "SET search_path = bolt").await;
        assert_eq!(run(&a, &sa).await, "bolt", "PostgreSQL looks the table up anew");
        does(&b, "RESET search_path").await;
        assert_eq!((run(&b, &sb).await, run(&a, &sa).await), ("nobody".into(), "bolt".into()));
    }
}

/// By names that only the setting of a tenant tells apart: what row security goes by.
#[tokio::test]
async fn a_tenants_own_parameter_never_serves_another() {
    for (proxy, a, b) in tenants().await {
        does(
            &a,
            "CREATE FUNCTION log_in(who text) RETURNS void LANGUAGE plpgsql AS $$
           BEGIN PERFORM set_config('app.tenant', who, false); END $$",
        )
        .await;
        for way in [
            "SET app.tenant = 'acme'",
            "SELECT set_config('app.tenant', 'acme', false)",
            "SELECT set_config('app.tenant', v, false) FROM (VALUES ('acme')) AS t (v)",
            "SELECT log_in('acme')",
            "SELECT public.enter('acme')",
            "DO $$ BEGIN PERFORM set_config('app.tenant', 'acme', false); END $$",
            "DO $$ BEGIN SET app.tenant = 'acme'; END $$",
        ] {
            println!("{way}");
            does(&a, way).await;
            assert_eq!(show(&b, "app.tenant").await, "", "after {way}");
            assert_eq!(show(&a, "app.tenant").await, "acme", "after {way}");
            does(&b, &way.replace("acme", "bolt")).await;
            assert_eq!(show(&a, "app.tenant").await, "acme", "after {way}");
            assert_eq!(show(&b, "app.tenant").await, "bolt", "after {way}");
            does(&a, "DISCARD ALL").await;
            does(&b, "RESET ALL").await;
            assert_eq!(
                (show(&a, "app.tenant").await, show(&b, "app.tenant").await),
                Default::default()
            );
        }
        assert_eq!(pinned_by(&proxy).await, ["", ""]);
    }
}
