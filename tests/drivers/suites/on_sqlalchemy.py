"""SQLAlchemy's ORM over psycopg and asyncpg: local tables it makes itself, and a distributed one."""

import asyncio

from sqlalchemy import (
    BigInteger, ForeignKey, Integer, String, create_engine, func, inspect, insert, select, text, update,
)
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, selectinload,
)

from harness import check, distributed, run

distributed("sa_orders", "tenant bigint, id bigint, total numeric(10,2), PRIMARY KEY (tenant, id)", "tenant")


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "sa_books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("sa_authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


class Order(Base):
    __tablename__ = "sa_orders"
    tenant: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    total: Mapped[float | None]


LOCAL = [Author.__table__, Book.__table__]
engine = create_engine("postgresql+psycopg://", pool_pre_ping=True, pool_size=3)


@check("create_all, and what the inspector finds")
def _():
    Base.metadata.create_all(engine, tables=LOCAL)
    i = inspect(engine)
    columns = [[c["name"], str(c["type"]), c["nullable"]] for c in i.get_columns("sa_books")]
    order = [[c["name"], str(c["type"])] for c in i.get_columns("sa_orders")]
    return [
        columns, order, i.get_pk_constraint("sa_orders")["constrained_columns"],
        [k["referred_table"] for k in i.get_foreign_keys("sa_books")],
        [x["column_names"] for x in i.get_indexes("sa_books")],
        [u["column_names"] for u in i.get_unique_constraints("sa_authors")],
        sorted(t for t in i.get_table_names() if t.startswith("sa_")),
        i.has_table("sa_orders"), i.has_table("sa_missing"),
    ]


@check("a graph of objects, saved, loaded, changed and deleted")
def _():
    with Session(engine) as s:
        s.add_all([
            Author(name=f"author {a}", books=[Book(title=f"book {a}.{b}") for b in range(3)]) for a in range(20)
        ])
        s.commit()
    with Session(engine) as s:
        query = select(Author).options(selectinload(Author.books)).order_by(Author.name).limit(3)
        seen = [[a.name, sorted(b.title for b in a.books)] for a in s.scalars(query)]
        joined = select(Book).options(joinedload(Book.author)).where(Book.title == "book 4.1")
        seen.append([b.author.name for b in s.scalars(joined)])
        author = s.scalars(select(Author).where(Author.name == "author 5")).one()
        author.books[0].title = "changed"
        s.delete(author.books[1])
        s.commit()
        seen.append(sorted(b.title for b in author.books))
        s.delete(author)
        s.commit()
        seen.append([s.scalar(select(func.count()).select_from(Author)), s.scalar(select(func.count(Book.id)))])
        return seen


@check("sessions on a distributed table")
def _():
    seen = []
    for tenant in range(1, 16):
        with Session(engine) as s:
            s.add_all([Order(tenant=tenant, id=n, total=n * 1.5) for n in range(4)])
            s.commit()
    for tenant in range(1, 16):
        with Session(engine) as s:
            found = s.scalars(select(Order).where(Order.tenant == tenant).order_by(Order.id)).all()
            found[0].total = 99
            s.commit()
            s.refresh(found[0])
            seen.append([[o.id, str(o.total)] for o in found])
    with Session(engine) as s:
        order = s.get(Order, (3, 2))
        s.delete(order)
        s.commit()
        seen.append(s.get(Order, (3, 2)) is None)
        s.rollback()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        seen.append(c.execute(text("SELECT count(*), min(tenant), max(tenant) FROM sa_orders")).one())
    return seen


@check("a count over all nodes in a session, which is a transaction")
def _():
    with Session(engine) as s:
        return s.scalar(select(func.count()).select_from(Order).where(Order.tenant > 0))


@check("a local table in the transaction of a distributed one")
def _():
    for tenant in range(800, 812):
        with Session(engine) as s:
            s.add(Order(tenant=tenant, id=1, total=1))
            s.flush()
            s.scalars(select(Author).limit(1)).all()
            s.rollback()
    return "done"


@check("bulk insert, update and RETURNING")
def _():
    with Session(engine) as s:
        rows = [{"tenant": 500, "id": n, "total": n} for n in range(50)]
        found = s.execute(insert(Order).returning(Order.id), rows).all()
        s.execute(update(Order).where(Order.tenant == 500, Order.id < 10).values(total=Order.total + 1))
        total = s.scalar(select(func.sum(Order.total)).where(Order.tenant == 500))
        s.commit()
        authors = s.scalars(insert(Author).returning(Author.name), [{"name": f"bulk {n}"} for n in range(30)]).all()
        s.rollback()
        return [sorted(r[0] for r in found), str(total), sorted(authors)]


@check("savepoints")
def _():
    with Session(engine) as s:
        s.add(Order(tenant=600, id=1, total=1))
        s.flush()
        nested = s.begin_nested()
        s.add(Order(tenant=600, id=2, total=2))
        s.flush()
        nested.rollback()
        s.commit()
        return [o.id for o in s.scalars(select(Order).where(Order.tenant == 600))]


@check("streamed results and isolation level")
def _():
    with engine.connect().execution_options(stream_results=True, isolation_level="REPEATABLE READ") as c:
        rows = c.execute(select(Book.title).order_by(Book.title)).yield_per(10)
        return [sum(1 for _ in rows), c.execute(text("SELECT current_setting('transaction_isolation')")).scalar()]


@check("asyncio, over asyncpg")
async def _():
    other = create_async_engine("postgresql+asyncpg://", pool_size=4)
    sessions = async_sessionmaker(other, expire_on_commit=False)

    async def work(tenant):
        async with sessions() as s:
            s.add_all([Order(tenant=tenant, id=n, total=n) for n in range(3)])
            await s.commit()
            found = await s.scalars(select(Order).where(Order.tenant == tenant).order_by(Order.id))
            return [o.id for o in found]

    seen = await asyncio.gather(*(work(700 + n) for n in range(12)))
    async with sessions() as s:
        query = select(Author).options(selectinload(Author.books)).order_by(Author.name).limit(2)
        seen.append([[a.name, len(a.books)] for a in await s.scalars(query)])
    await other.dispose()
    return seen


@check("drop_all")
def _():
    Base.metadata.drop_all(engine, tables=LOCAL)
    return [inspect(engine).has_table("sa_books"), Integer().python_type.__name__]


run()
