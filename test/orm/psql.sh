# psql: what docs/orms.md shows, and what must hold. Stops at the first thing that is not as it must be.
set -eu
#region docs
psql "$DATABASE_URL" -c "SELECT id, name FROM contacts ORDER BY id"
#endregion

rows=$(psql "$DATABASE_URL" -Atc "SELECT string_agg(name, ',' ORDER BY id) FROM contacts")
[ "$rows" = "Wile E. Coyote,Road Runner" ]
[ "$(psql "$DATABASE_URL" -Atc "\copy contacts to stdout csv" | wc -l)" = 2 ]

# Ctrl-C
answer=$(timeout -s INT 1 psql "$DATABASE_URL" -c "SELECT pg_sleep(30)" 2>&1) || true
case $answer in *"canceling statement due to user request"*) ;; *) echo "$answer" >&2; exit 1 ;; esac
