//! Random joins of distributed and reference tables, beside one PostgreSQL with the same rows.

use tokio_postgres::Client;

use super::shop;
use crate::support::*;

/// splitmix64, so that a failure can be looked at again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }
}

/// A SELECT over orders, countries and regions, of which some cannot be exact over several nodes.
fn query(dice: &mut Dice) -> String {
    let join = |dice: &mut Dice| {
        dice.of(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]).to_owned()
    };
    let country = dice.of(&[
        "countries c",
        "countries c",
        "(SELECT * FROM countries) c",
        "(SELECT code, max(name) AS name, min(tax) AS tax, sum(region) AS region FROM countries GROUP BY code) c",
        "(SELECT DISTINCT code, name, tax, region FROM countries WHERE region > 1) c",
        "(SELECT code, name, tax, region FROM countries UNION ALL SELECT 'xx', 'none', 0, 3) c",
    ]);
    let from = match dice.below(5) {
        0 => format!("orders o {} {country} ON o.country = c.code", join(dice)),
        1 => format!("{country} {} orders o ON o.country = c.code", join(dice)),
        2 => format!(
            "orders o {} {country} ON o.country = c.code {} regions r ON r.id = c.region",
            join(dice),
            join(dice)
        ),
        3 => format!("orders o, {country}"),
        _ => format!(
            "orders o {} {country} ON o.country = c.code AND o.price > {}",
            join(dice),
            dice.below(90)
        ),
    };
    let price = dice.below(100).to_string();
    let mut conditions = Vec::new();
    for _ in 0..dice.below(3) {
        conditions.push(
            dice.of(&[
                "o.country = c.code",
                "o.price < 50",
                "c.region IN (SELECT id FROM regions WHERE name < 'c')",
                "EXISTS (SELECT 1 FROM countries x WHERE x.code = o.country AND x.region = 2 LIMIT 1)",
                "NOT EXISTS (SELECT 1 FROM regions x WHERE x.id = c.region)",
                "o.country NOT IN (SELECT code FROM countries WHERE region = 1)",
                "o.price > (SELECT count(*) FROM countries)",
                "c.code IS NULL",
                "c.name > 'C' OR o.price > 70",
                "o.tenant = 3",
                "o.tenant IN (SELECT region FROM countries)",
            ])
            .to_owned(),
        );
    }
    conditions.push(format!("(o.price <> {price} OR o.price IS NULL)"));
    let (columns, rest) = match dice.below(5) {
        0 => ("count(*), sum(o.price), max(c.name)", ""),
        1 => ("c.name, count(*), sum(o.price)", "GROUP BY c.name"),
        2 => ("o.tenant, o.id, c.code, c.name", "ORDER BY 1, 2, 3, 4"),
        3 => ("o.tenant, count(c.code)", "GROUP BY o.tenant HAVING count(c.code) > 1"),
        _ => ("o.tenant, o.price, c.tax, (SELECT max(name) FROM regions WHERE id = c.region)", ""),
    };
    format!("SELECT {columns} FROM {from} WHERE {} {rest}", conditions.join(" AND "))
}

#[tokio::test]
async fn random_joins_are_answered_as_by_one_server() {
    let (p, c) = shop().await;
    let lone = LocalNode::start(NodeOptions::new("lone")).unwrap();
    let one = connect(lone.port()).await;
    let mark = ", CONSTRAINT pgshunt_reference CHECK (true)";
    c.batch_execute("DROP TABLE orders").await.unwrap();
    c.batch_execute("DROP TABLE countries").await.unwrap();
    for (sql, here) in [
        (format!("CREATE TABLE countries (code text, name text, tax numeric, region int{mark})"), true),
        (format!("CREATE TABLE regions (id int, name text{mark})"), true),
        (
            "CREATE TABLE orders (tenant int, id int, country text, price int, PRIMARY KEY (tenant, id)) \
               PARTITION BY HASH (tenant)"
                .to_owned(),
            false,
        ),
        ("CREATE TABLE orders (tenant int, id int, country text, price int, PRIMARY KEY (tenant, id))".to_owned(), true),
        ("INSERT INTO regions VALUES (1, 'a'), (2, 'b'), (3, 'c'), (2, 'd')".to_owned(), true),
    ] {
        let is_lone = sql.starts_with("CREATE TABLE orders") && here;
        if here {
            one.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
        if !is_lone {
            c.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        }
    }
    let mut dice = Dice(41);
    for n in 0..12 {
        let code = dice.of(&["at", "be", "ch", "de", "fr"]);
        let sql = format!(
            "INSERT INTO countries VALUES ('{code}', 'N{n}', {}.50, {})",
            n % 4,
            dice.below(4)
        );
        for to in [&c, &one] {
            to.batch_execute(&sql).await.unwrap();
        }
    }
    for n in 0..60 {
        let country = dice.of(&["'at'", "'be'", "'ch'", "'xx'", "NULL"]);
        let sql =
            format!("INSERT INTO orders VALUES ({}, {n}, {country}, {})", n % 10, dice.below(100));
        for to in [&c, &one] {
            to.batch_execute(&sql).await.unwrap();
        }
    }
    let rows = async |client: &Client, sql: &str| {
        let mut rows = Vec::new();
        for message in client.simple_query(sql).await? {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                rows.push(
                    (0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect::<Vec<_>>(),
                );
            }
        }
        rows.sort();
        Ok::<_, tokio_postgres::Error>(rows)
    };
    let (mut answered, mut refused) = (0, 0);
    for n in 0..400 {
        let sql = query(&mut dice);
        let wanted = rows(&one, &sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        match rows(&c, &sql).await {
            Ok(found) => {
                assert_eq!(found, wanted, "{n}: {sql}");
                answered += 1;
            }
            Err(e) => {
                assert_eq!(e.code().map(|c| c.code()), Some("0A000"), "{n}: {sql}: {e:?}");
                refused += 1;
            }
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!(answered > 200, "{answered} answered, {refused} refused");
    drop(p);
}
