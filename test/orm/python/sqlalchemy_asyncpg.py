"""SQLAlchemy with asyncpg, and asyncpg's own pool: what docs/orms.md shows, and what must hold."""

# region docs
import asyncio, os
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")


async def main():
    engine = create_async_engine(url, pool_size=5, max_overflow=0)
    async with engine.connect() as connection:
        print((await connection.execute(text("SELECT id, name FROM contacts ORDER BY id"))).all())
    await engine.dispose()


asyncio.run(main())
# [(1, 'Wile E. Coyote'), (2, 'Road Runner')]
# endregion

import asyncpg


def pool_of(tenant):
    return asyncpg.create_pool(
        host=url.host,
        port=url.port,
        database=url.database,
        user=f"app_user.{tenant}",
        password=url.password,
        min_size=1,
        max_size=1,
    )


async def check():
    for tenant, expected in {
        "acme": ["Wile E. Coyote", "Road Runner"],
        "globex": ["Hank Scorpio", "Frank Grimes", "Mindy Simmons"],
        os.environ["ODD_TENANT"]: ["Zoë"],
    }.items():
        async with pool_of(tenant) as pool:
            # The pool sends RESET ALL at each release: from the second time on the context has survived one.
            for _ in range(5):
                rows = await pool.fetch("SELECT name FROM contacts WHERE id > $1 ORDER BY id", 0)
                assert [row["name"] for row in rows] == expected, (tenant, rows)
            if tenant == "acme":
                try:
                    await pool.execute("INSERT INTO contacts (name, tenant_id) VALUES ('Mallory', 'globex')")
                    raise SystemExit("an INSERT for another tenant succeeded")
                except asyncpg.InsufficientPrivilegeError as error:
                    assert error.sqlstate == "42501"
                # A timeout sends a CancelRequest.
                try:
                    await pool.execute("SELECT pg_sleep(30)", timeout=0.3)
                    raise SystemExit("the query was not cancelled")
                except asyncio.TimeoutError:
                    pass
                assert await pool.fetchval("SELECT count(*) FROM contacts") == 2

    engine = create_async_engine(url.set(username="app_user.globex"))
    for _ in range(3):
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT count(*) FROM contacts"))).scalar() == 3
    await engine.dispose()


asyncio.run(check())
