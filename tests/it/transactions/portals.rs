//! Rows of several nodes that a client fetches some at a time, within a transaction.

use tokio_postgres::Transaction;

use super::Bank;
use super::{ACCOUNTS, TOTAL};

/// All rows of a portal, so many at a time, and how many times it was asked.
async fn fetched(block: &Transaction<'_>, sql: &str, most: i32) -> (Vec<i32>, usize) {
    let portal = block.bind(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let (mut all, mut times) = (Vec::new(), 0);
    loop {
        let rows =
            block.query_portal(&portal, most).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        times += 1;
        assert!(most == 0 || rows.len() <= most as usize, "{sql}");
        all.extend(rows.iter().map(|r| r.get::<_, i32>(0)));
        if rows.is_empty() {
            return (all, times);
        }
    }
}

/// The code of the error: of Bind, behind whose answer it may come, or of what follows in the transaction.
async fn fails(block: &Transaction<'_>, sql: &str) -> String {
    let error = match block.bind(sql, &[]).await {
        Ok(portal) => block.query_portal(&portal, 2).await.map(|_| ()).expect_err(sql),
        Err(e) => e,
    };
    error.code().expect(sql).code().to_owned()
}

#[tokio::test]
async fn rows_of_several_nodes_come_some_at_a_time() {
    let b = Bank::open().await;
    let mut client = b.p.client().await;
    let block = client.transaction().await.unwrap();
    let all: Vec<i32> = (0..ACCOUNTS).collect();
    for (sql, wanted) in [
        ("SELECT t FROM accounts ORDER BY t", all.clone()),
        ("SELECT t FROM accounts ORDER BY t DESC LIMIT 7 OFFSET 2", (11..18).rev().collect()),
        ("SELECT count(*)::int FROM accounts", vec![ACCOUNTS]),
        ("SELECT t % 3 FROM accounts GROUP BY 1 ORDER BY 1", vec![0, 1, 2]),
        ("SELECT t FROM accounts WHERE t < 0", vec![]),
    ] {
        for most in [1, 3, 20, 0] {
            let (rows, times) = fetched(&block, sql, most).await;
            assert_eq!(rows, wanted, "{sql}");
            assert!(most == 0 || times > wanted.len() / most as usize, "{sql}");
        }
    }
    let (mut rows, _) = fetched(&block, "SELECT t FROM accounts", 6).await;
    rows.sort_unstable();
    assert_eq!(rows, all);
    // What is changed behind it is not seen, as in PostgreSQL; and two may be open at once.
    let first = block.bind("SELECT v FROM accounts", &[]).await.unwrap();
    assert_eq!(block.query_portal(&first, 5).await.unwrap().len(), 5);
    block.execute("UPDATE accounts SET v = 7", &[]).await.unwrap();
    let second = block.bind("SELECT v FROM accounts", &[]).await.unwrap();
    let seen = |rows: Vec<tokio_postgres::Row>| {
        rows.iter().map(|r| r.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    assert_eq!(seen(block.query_portal(&second, 4).await.unwrap()), [7; 4]);
    assert_eq!(seen(block.query_portal(&first, 0).await.unwrap()), [100; 15]);
    assert_eq!(block.query_portal(&first, 0).await.unwrap().len(), 0);
    assert_eq!(seen(block.query_portal(&second, 0).await.unwrap()), [7; 16]);
    block.rollback().await.unwrap();
    assert_eq!(b.audit().await, (TOTAL, 0));
}

/// What is kept is bounded, and goes with the transaction.
#[tokio::test]
async fn what_is_kept_for_a_portal_is_bounded() {
    let b = Bank::open().await;
    let mut client = b.p.client().await;
    let block = client.transaction().await.unwrap();
    let large = "SELECT t, repeat('x', 3000000) FROM accounts";
    assert!(["54000", "25P02"].contains(&fails(&block, large).await.as_str()));
    block.rollback().await.unwrap();
    let block = client.transaction().await.unwrap();
    let divides = "SELECT 1 / (t - 5) FROM accounts";
    assert!(["22012", "25P02"].contains(&fails(&block, divides).await.as_str()));
    block.rollback().await.unwrap();
    assert_eq!(b.audit().await, (TOTAL, 0));
}
