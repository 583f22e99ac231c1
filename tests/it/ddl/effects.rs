//! What a statement is known to do is known from the home node's own catalogs.

use pgshunt::router::plan::Effect;
use pgshunt::router::{Planner, Speech};

use super::Cluster;

/// What a read of a distributed table does, as far as the routing table in force tells.
async fn effect(c: &Cluster, sql: &str) -> Effect {
    let mut planner = Planner::new(c.store.functions().await.unwrap());
    planner.plan_text(sql.as_bytes(), &c.store.routes().load(), Speech::default()).effect
}

#[tokio::test]
async fn a_read_is_one_until_something_of_somebodys_may_be_called() {
    let c = Cluster::start(2).await;
    c.alice("CREATE TABLE plain (id int PRIMARY KEY, v text) PARTITION BY HASH (id)").await;
    c.alice("CREATE TABLE guarded (id int PRIMARY KEY, v text) PARTITION BY HASH (id)").await;
    let plain = "SELECT lower(v), count(*) FROM plain WHERE id = 1 AND v = 'x' GROUP BY 1";
    let guarded = "SELECT v FROM guarded WHERE id = 1";
    assert_eq!(effect(&c, plain).await, Effect::Reads);
    assert_eq!(effect(&c, guarded).await, Effect::Reads);
    assert_eq!(effect(&c, "SELECT random() FROM plain WHERE id = 1").await, Effect::Unknown);

    c.alice("CREATE POLICY p ON guarded USING (v IS NOT NULL)").await;
    assert_eq!(effect(&c, guarded).await, Effect::Unknown);
    assert_eq!(effect(&c, plain).await, Effect::Reads);
    c.alice("DROP POLICY p ON guarded").await;
    assert_eq!(effect(&c, guarded).await, Effect::Reads);

    // Made on the home node directly: what asks for changes there notices.
    let before = c.store.hidden_print().await.unwrap();
    let made = "CREATE FUNCTION f(int, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = text, FUNCTION = f)";
    c.clients[0].batch_execute(made).await.unwrap();
    assert_ne!(c.store.hidden_print().await.unwrap(), before);
    c.store.reload().await.unwrap();
    assert_eq!(effect(&c, plain).await, Effect::Unknown);
    c.clients[0].batch_execute("DROP OPERATOR public.= (int, text)").await.unwrap();
    c.store.reload().await.unwrap();
    assert_eq!(effect(&c, plain).await, Effect::Reads);

    // One of the server's own functions, which nobody meant for an operator; no function changes with it.
    let before = c.store.hidden_print().await.unwrap();
    let made = "CREATE OPERATOR public.%%% (RIGHTARG = regclass, FUNCTION = pg_catalog.nextval)";
    c.clients[0].batch_execute(made).await.unwrap();
    assert_ne!(c.store.hidden_print().await.unwrap(), before);
    c.store.reload().await.unwrap();
    assert_eq!(effect(&c, plain).await, Effect::Unknown);
}
