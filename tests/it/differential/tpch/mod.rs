//! The queries of TPC-H beside one PostgreSQL, on few rows of our own making: equal answers, and each by
//! the rung that `queries.sql` names.
//!
//! lineitem and orders are distributed by the order's key, customer by its own, part and partsupp by the
//! part's; supplier, nation and region are local tables.

use super::pair::{Outcome, Pair, Step};
use super::{distribute, with_pair};

const QUERIES: &str = include_str!("queries.sql");

const DISTRIBUTED: [(&str, &str, &str); 5] = [
    (
        "part",
        "p_partkey int, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25), \
         p_size int, p_container char(10), p_retailprice numeric(15,2), p_comment varchar(23)",
        "p_partkey",
    ),
    (
        "partsupp",
        "ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric(15,2), \
         ps_comment varchar(199)",
        "ps_partkey",
    ),
    (
        "customer",
        "c_custkey int, c_name varchar(25), c_address varchar(40), c_nationkey int, c_phone char(15), \
         c_acctbal numeric(15,2), c_mktsegment char(10), c_comment varchar(117)",
        "c_custkey",
    ),
    (
        "orders",
        "o_orderkey int, o_custkey int, o_orderstatus char(1), o_totalprice numeric(15,2), \
         o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority int, \
         o_comment varchar(79)",
        "o_orderkey",
    ),
    (
        "lineitem",
        "l_orderkey int, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric(15,2), \
         l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), \
         l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, \
         l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44)",
        "l_orderkey",
    ),
];

const LOCAL: [&str; 3] = [
    "CREATE TABLE region (r_regionkey int PRIMARY KEY, r_name char(25), r_comment varchar(152))",
    "CREATE TABLE nation (n_nationkey int PRIMARY KEY, n_name char(25), n_regionkey int, \
     n_comment varchar(152))",
    "CREATE TABLE supplier (s_suppkey int PRIMARY KEY, s_name char(25), s_address varchar(40), \
     s_nationkey int, s_phone char(15), s_acctbal numeric(15,2), s_comment varchar(101))",
];

const REGIONS: [&str; 5] = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"];
/// Nations, and the region of each.
const NATIONS: [(&str, usize); 12] = [
    ("ALGERIA", 0),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("EGYPT", 4),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("JAPAN", 2),
    ("KENYA", 0),
    ("SAUDI ARABIA", 4),
    ("CHINA", 2),
    ("UNITED STATES", 1),
];
const SUPPLIERS: usize = 24;
const PARTS: usize = 240;
const CUSTOMERS: usize = 150;
const ORDERS: usize = 1_000;

/// Numbers that look chosen by chance, and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn of(&mut self, words: &[&str]) -> String {
        words[self.below(words.len())].to_owned()
    }

    fn money(&mut self, most: usize) -> String {
        format!("{}.{:02}", self.below(most), self.below(100))
    }

    fn phone(&mut self) -> String {
        let country = self.of(&["13", "31", "23", "29", "30", "18", "17", "11", "25"]);
        format!("{country}-{:03}-{:03}", self.below(1000), self.below(1000))
    }
}

fn quoted(values: &[String]) -> String {
    let values: Vec<_> = values.iter().map(|v| format!("'{v}'")).collect();
    format!("({})", values.join(", "))
}

fn parts(chance: &mut Chance) -> Vec<String> {
    const COLORS: [&str; 5] = ["green", "forest", "blue", "ivory", "salmon"];
    const TYPES: [[&str; 4]; 3] = [
        ["ECONOMY", "PROMO", "MEDIUM", "STANDARD"],
        ["ANODIZED", "POLISHED", "BURNISHED", "PLATED"],
        ["BRASS", "STEEL", "TIN", "COPPER"],
    ];
    let part = |key| {
        let kind: Vec<_> = TYPES.iter().map(|words| chance.of(words)).collect();
        quoted(&[
            format!("{key}"),
            format!("{} {}", chance.of(&COLORS), chance.of(&COLORS)),
            format!("Manufacturer#{}", 1 + chance.below(5)),
            chance.of(&["Brand#12", "Brand#23", "Brand#45", "Brand#34"]),
            kind.join(" "),
            (5 * (1 + chance.below(10))).to_string(),
            format!("{} {}", chance.of(&["SM", "MED", "LG"]), chance.of(&["CASE", "BOX", "PACK"])),
            chance.money(2000),
            "comment".to_owned(),
        ])
    };
    (1..=PARTS).map(part).collect()
}

fn partsupp(chance: &mut Chance) -> Vec<String> {
    let supply = |n: usize| {
        let (part, nth) = (1 + n / 4, n % 4);
        let supplier = 1 + (part + nth * (SUPPLIERS / 4)) % SUPPLIERS;
        let (available, cost) = (1 + chance.below(60), chance.money(1000));
        quoted(&[
            part.to_string(),
            supplier.to_string(),
            available.to_string(),
            cost,
            "comment".to_owned(),
        ])
    };
    (0..4 * PARTS).map(supply).collect()
}

fn customers(chance: &mut Chance) -> Vec<String> {
    const SEGMENTS: [&str; 3] = ["BUILDING", "AUTOMOBILE", "MACHINERY"];
    let customer = |key: usize| {
        let balance = format!("{}{}", chance.of(&["", "", "-"]), chance.money(9999));
        quoted(&[
            key.to_string(),
            format!("Customer#{key:09}"),
            format!("street {key}"),
            chance.below(NATIONS.len()).to_string(),
            chance.phone(),
            balance,
            chance.of(&SEGMENTS),
            "comment".to_owned(),
        ])
    };
    (1..=CUSTOMERS).map(customer).collect()
}

fn date(day: usize) -> String {
    // Of years and months that all have such a day.
    format!("{}-{:02}-{:02}", 1992 + day / 336, 1 + day / 28 % 12, 1 + day % 28)
}

/// Orders and their lines.
fn orders(chance: &mut Chance) -> (Vec<String>, Vec<String>) {
    const PRIORITIES: [&str; 3] = ["1-URGENT", "2-HIGH", "5-LOW"];
    let mut orders = Vec::new();
    let mut lines = Vec::new();
    for key in 1..=ORDERS {
        let ordered = chance.below(336 * 6);
        // Every third customer has none.
        let customer = 1 + 3 * chance.below(CUSTOMERS / 3) + chance.below(2);
        for number in 1..=1 + chance.below(5) {
            let shipped = ordered + 1 + chance.below(90);
            let (promised, received) =
                (ordered + 20 + chance.below(60), shipped + 1 + chance.below(30));
            let part = 1 + chance.below(PARTS);
            let supplier = 1 + (part + chance.below(4) * (SUPPLIERS / 4)) % SUPPLIERS;
            lines.push(quoted(&[
                key.to_string(),
                part.to_string(),
                supplier.to_string(),
                number.to_string(),
                (1 + chance.below(50)).to_string(),
                chance.money(90_000),
                format!("0.{:02}", chance.below(11)),
                format!("0.{:02}", chance.below(9)),
                chance.of(&["R", "A", "N"]),
                chance.of(&["O", "F"]),
                date(shipped),
                date(promised),
                date(received),
                chance.of(&["DELIVER IN PERSON", "NONE"]),
                chance.of(&["AIR", "AIR REG", "MAIL", "SHIP"]),
                "comment".to_owned(),
            ]));
        }
        orders.push(quoted(&[
            key.to_string(),
            customer.to_string(),
            chance.of(&["F", "O", "P"]),
            chance.money(400_000),
            date(ordered),
            chance.of(&PRIORITIES),
            "Clerk#1".to_owned(),
            "0".to_owned(),
            chance.of(&["special odd requests", "plain", "special", "requests"]),
        ]));
    }
    (orders, lines)
}

fn local(chance: &mut Chance) -> [(&'static str, Vec<String>); 3] {
    let region = |(key, name): (usize, &&str)| {
        quoted(&[key.to_string(), (*name).to_owned(), "comment".to_owned()])
    };
    let nation = |(key, (name, region)): (usize, &(&str, usize))| {
        quoted(&[key.to_string(), (*name).to_owned(), region.to_string(), "comment".to_owned()])
    };
    let mut supplier = |key: usize| {
        quoted(&[
            key.to_string(),
            format!("Supplier#{key:09}"),
            format!("road {key}"),
            (key % NATIONS.len()).to_string(),
            chance.phone(),
            chance.money(9999),
            chance.of(&["plain", "Customer stuff Complaints", "good"]),
        ])
    };
    [
        ("region", REGIONS.iter().enumerate().map(region).collect()),
        ("nation", NATIONS.iter().enumerate().map(nation).collect()),
        ("supplier", (1..=SUPPLIERS).map(&mut supplier).collect()),
    ]
}

fn create(pair: &mut Pair) {
    for (table, columns, key) in DISTRIBUTED {
        distribute(pair, table, columns, key);
    }
    LOCAL.iter().for_each(|sql| pair.both(sql));
    let mut chance = Chance(19_920_101);
    let (orders, lines) = orders(&mut chance);
    let distributed = [
        ("part", parts(&mut chance)),
        ("partsupp", partsupp(&mut chance)),
        ("customer", customers(&mut chance)),
        ("orders", orders),
        ("lineitem", lines),
    ];
    for (table, rows) in distributed.into_iter().chain(local(&mut chance)) {
        for some in rows.chunks(200) {
            pair.both(&format!("INSERT INTO {table} VALUES {}", some.join(", ")));
        }
    }
    pair.plain.does("ANALYZE");
}

/// The rung that EXPLAIN (ROUTE) names.
fn rung(pair: &mut Pair, sql: &str) -> String {
    let reply = pair.shunt.simple(&format!("EXPLAIN (ROUTE) {sql}"), None);
    let row = reply.answers.first().and_then(|a| a.rows.first()?.first()?.clone());
    let line = String::from_utf8(row.expect("a line")).unwrap();
    line.split(' ').next().unwrap_or_default().to_owned()
}

fn run(pair: &mut Pair) {
    create(pair);
    let mut wrong = Vec::new();
    for query in QUERIES.split(";\n").filter(|q| q.contains("SELECT")) {
        let (head, sql) = query.trim().split_once('\n').expect("a line that names it");
        let mut words = head.trim_start_matches("-- ").split([' ', ':']);
        let (name, named) = (words.next().unwrap(), words.next().unwrap());
        let taken = rung(pair, sql);
        if taken != named {
            wrong.push(format!("{name} goes by {taken}, not {named}"));
        }
        let rows = pair.plain.simple(sql, None).answers.first().map_or(0, |a| a.rows.len());
        if rows == 0 {
            wrong.push(format!("{name} has no rows that could differ"));
        }
        for extended in [false, true] {
            let mut step = Step::new(sql);
            step.params = extended.then(Vec::new);
            step.binary_result = extended;
            let outcome = pair.step(&step);
            if outcome != Outcome::Equal {
                wrong.push(format!("{name}: {outcome:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_queries_of_tpc_h_are_answered_as_by_one_server() {
    with_pair(run).await;
}
