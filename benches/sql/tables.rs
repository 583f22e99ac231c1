//! The tables of TPC-H with rows of our own making: made by one PostgreSQL, and copied from there.
//!
//! At scale 1 there are as many rows as TPC-H has at its scale 1. The words are those that the queries of
//! `tests/it/differential/tpch` ask for. Every value is a function of the row's number, so that each run
//! has the same rows.

/// A table, how pgshunt has it, and how its rows are made.
pub struct Table {
    pub name: &'static str,
    pub columns: &'static str,
    pub key: &'static str,
    pub place: Place,
    /// A query that gives the rows; `{n}` stands for how many there are.
    pub rows: &'static str,
    /// How many rows there are at scale 1, for each that `rows` counts.
    pub at_scale_1: u32,
    pub indexes: &'static [&'static str],
}

/// How pgshunt has a table.
pub enum Place {
    Distributed(&'static str),
    Reference,
}

/// `word(n, seed, words)` and `pick(n, seed, m)` choose by the row's number.
pub const CHOICE: &str = "\
    CREATE FUNCTION pick(n bigint, seed int, m int) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE AS \
      'SELECT (((hashint8extended(n, seed) % m) + m) % m)::int'; \
    CREATE FUNCTION word(n bigint, seed int, words text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS \
      'SELECT words[1 + pick(n, seed, cardinality(words))]'; \
    CREATE FUNCTION money(n bigint, seed int, most int) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS \
      'SELECT pick(n, seed, most * 100) / 100.0'";

pub const TABLES: [Table; 8] = [
    Table {
        name: "region",
        columns: "r_regionkey int, r_name char(25), r_comment varchar(152)",
        key: "r_regionkey",
        place: Place::Reference,
        rows: "SELECT n - 1, ('{AFRICA,AMERICA,ASIA,EUROPE,MIDDLE EAST}'::text[])[n], 'comment' \
               FROM generate_series(1, 5) n",
        at_scale_1: 0,
        indexes: &[],
    },
    Table {
        name: "nation",
        columns: "n_nationkey int, n_name char(25), n_regionkey int, n_comment varchar(152)",
        key: "n_nationkey",
        place: Place::Reference,
        rows: "SELECT n - 1, ('{ALGERIA,BRAZIL,CANADA,EGYPT,FRANCE,GERMANY,INDIA,JAPAN,KENYA,SAUDI ARABIA,\
               CHINA,UNITED STATES}'::text[])[n], ('{0,1,1,4,3,3,2,2,0,4,2,1}'::int[])[n], 'comment' \
               FROM generate_series(1, 12) n",
        at_scale_1: 0,
        indexes: &[],
    },
    Table {
        name: "supplier",
        columns: "s_suppkey int, s_name char(25), s_address varchar(40), s_nationkey int, s_phone char(15), \
                  s_acctbal numeric(15,2), s_comment varchar(101)",
        key: "s_suppkey",
        place: Place::Reference,
        rows: "SELECT n, 'Supplier#' || n, 'road ' || n, n % 12, 10 + n % 25 || '-' || 100 + pick(n, 1, 900), \
               money(n, 2, 9999), word(n, 3, '{plain,Customer stuff Complaints,good}') \
               FROM generate_series(1, {n}) n",
        at_scale_1: 10_000,
        indexes: &[],
    },
    Table {
        name: "part",
        columns: "p_partkey int, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25), \
                  p_size int, p_container char(10), p_retailprice numeric(15,2), p_comment varchar(23)",
        key: "p_partkey",
        place: Place::Distributed("p_partkey"),
        rows: "SELECT n, word(n, 1, '{green,forest,blue,ivory,salmon}') || ' ' || word(n, 2, '{green,forest,blue}'), \
               'Manufacturer#' || 1 + pick(n, 3, 5), word(n, 4, '{Brand#12,Brand#23,Brand#45,Brand#34}'), \
               word(n, 5, '{ECONOMY,PROMO,MEDIUM,STANDARD}') || ' ' || \
               word(n, 6, '{ANODIZED,POLISHED,BURNISHED,PLATED}') || ' ' || word(n, 7, '{BRASS,STEEL,TIN,COPPER}'), \
               5 * (1 + pick(n, 8, 10)), word(n, 9, '{SM,MED,LG}') || ' ' || word(n, 10, '{CASE,BOX,PACK}'), \
               money(n, 11, 2000), 'comment' FROM generate_series(1, {n}) n",
        at_scale_1: 200_000,
        indexes: &[],
    },
    Table {
        name: "partsupp",
        columns: "ps_partkey int, ps_suppkey int, ps_availqty int, ps_supplycost numeric(15,2), \
                  ps_comment varchar(199)",
        key: "ps_partkey, ps_suppkey",
        place: Place::Distributed("ps_partkey"),
        rows: "SELECT n, 1 + (n + nth * 7) % (SELECT count(*) FROM supplier), 1 + pick(n, nth, 9999), \
               money(n, nth + 4, 1000), repeat('c', 100) FROM generate_series(1, {n}) n, generate_series(0, 3) nth",
        at_scale_1: 200_000,
        indexes: &["(ps_suppkey)"],
    },
    Table {
        name: "customer",
        columns: "c_custkey int, c_name varchar(25), c_address varchar(40), c_nationkey int, c_phone char(15), \
                  c_acctbal numeric(15,2), c_mktsegment char(10), c_comment varchar(117)",
        key: "c_custkey",
        place: Place::Distributed("c_custkey"),
        rows: "SELECT n, 'Customer#' || n, 'street ' || n, pick(n, 1, 12), \
               word(n, 2, '{13,31,23,29,30,18,17,11,25}') || '-' || 100 + pick(n, 3, 900), \
               money(n, 4, 10999) - 1000, word(n, 5, '{BUILDING,AUTOMOBILE,MACHINERY,FURNITURE,HOUSEHOLD}'), \
               repeat('c', 70) FROM generate_series(1, {n}) n",
        at_scale_1: 150_000,
        indexes: &[],
    },
    Table {
        name: "orders",
        columns: "o_orderkey int, o_custkey int, o_orderstatus char(1), o_totalprice numeric(15,2), \
                  o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority int, \
                  o_comment varchar(79)",
        key: "o_orderkey",
        place: Place::Distributed("o_orderkey"),
        // Every third customer has none.
        rows: "SELECT n, 1 + 3 * pick(n, 1, (SELECT count(*) FROM customer)::int / 3) + pick(n, 2, 2), \
               word(n, 3, '{F,O,P}'), money(n, 4, 400000), date '1992-01-01' + pick(n, 5, 2400), \
               word(n, 6, '{1-URGENT,2-HIGH,3-MEDIUM,5-LOW}'), 'Clerk#' || pick(n, 7, 1000), 0, \
               word(n, 8, '{special odd requests,plain,special,requests}') FROM generate_series(1, {n}) n",
        at_scale_1: 1_500_000,
        indexes: &["(o_custkey)", "(o_orderdate)"],
    },
    Table {
        name: "lineitem",
        columns: "l_orderkey int, l_partkey int, l_suppkey int, l_linenumber int, l_quantity numeric(15,2), \
                  l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), \
                  l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, \
                  l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44)",
        key: "l_orderkey, l_linenumber",
        place: Place::Distributed("l_orderkey"),
        rows: "SELECT o_orderkey, part, 1 + (part + pick(id, 1, 4) * 7) % (SELECT count(*) FROM supplier), nth, \
               1 + pick(id, 2, 50), money(id, 3, 90000), pick(id, 4, 11) / 100.0, pick(id, 5, 9) / 100.0, \
               word(id, 6, '{R,A,N}'), word(id, 7, '{O,F}'), shipped, o_orderdate + 20 + pick(id, 8, 60), \
               shipped + 1 + pick(id, 9, 30), word(id, 10, '{DELIVER IN PERSON,NONE,COLLECT COD,TAKE BACK RETURN}'), \
               word(id, 11, '{AIR,AIR REG,MAIL,SHIP,RAIL,TRUCK,FOB}'), repeat('c', 20) \
               FROM orders, generate_series(1, 1 + pick(o_orderkey, 12, 7)) nth, \
               LATERAL (SELECT o_orderkey * 8::bigint + nth AS id) i, \
               LATERAL (SELECT 1 + pick(id, 13, (SELECT count(*) FROM part)::int) AS part, \
               o_orderdate + 1 + pick(id, 14, 120) AS shipped) s",
        at_scale_1: 0,
        indexes: &["(l_partkey)"],
    },
];
