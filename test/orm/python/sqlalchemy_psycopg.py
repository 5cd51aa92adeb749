"""SQLAlchemy with psycopg 3: what docs/orms.md shows, and what must hold."""

# region docs
import os
from sqlalchemy import create_engine, make_url, text

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg")
engine = create_engine(url, pool_size=5, max_overflow=0, pool_pre_ping=True)
with engine.connect() as connection:
    print(connection.execute(text("SELECT id, name FROM contacts ORDER BY id")).all())
# [(1, 'Wile E. Coyote'), (2, 'Road Runner')]
# endregion

import threading
import psycopg
from sqlalchemy.exc import DBAPIError

SELECT = text("SELECT name FROM contacts ORDER BY id")


def names(tenant):
    other = create_engine(url.set(username=f"app_user.{tenant}"))
    try:
        with other.connect() as connection:
            # psycopg prepares a statement on the server when it has run it five times.
            return [connection.execute(SELECT).scalars().all() for _ in range(8)][-1]
    finally:
        other.dispose()


acme = ["Wile E. Coyote", "Road Runner"]
assert names("acme") == acme
assert names("globex") == ["Hank Scorpio", "Frank Grimes", "Mindy Simmons"]
assert names(os.environ["ODD_TENANT"]) == ["Zoë"]

try:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO contacts (name, tenant_id) VALUES ('Mallory', 'globex')"))
    raise SystemExit("an INSERT for another tenant succeeded")
except DBAPIError as error:
    assert error.orig.sqlstate == "42501", error

try:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO contacts (name) VALUES ('Nobody')"))
        raise KeyError
except KeyError:
    pass
assert names("acme") == acme
engine.dispose()

# A cancel reaches the server through pgvpd.
with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
    threading.Timer(0.3, connection.cancel_safe).start()
    try:
        connection.execute("SELECT pg_sleep(30)")
        raise SystemExit("the query was not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
