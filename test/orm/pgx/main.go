// pgx: what docs/orms.md shows, and what must hold.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func example(ctx context.Context) error {
	//#region docs
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()

	rows, _ := pool.Query(ctx, "SELECT id, name FROM contacts ORDER BY id")
	type contact struct {
		ID   int
		Name string
	}
	contacts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[contact])
	fmt.Println(contacts, err)
	// [{1 Wile E. Coyote} {2 Road Runner}] <nil>
	//#endregion
	return err
}

func main() {
	ctx := context.Background()
	must(example(ctx))
	check(ctx, "acme", "Wile E. Coyote", "Road Runner")
	check(ctx, "globex", "Hank Scorpio", "Frank Grimes", "Mindy Simmons")
	check(ctx, os.Getenv("ODD_TENANT"), "Zoë")

	acme := open(ctx, "acme")
	defer acme.Close()
	_, err := acme.Exec(ctx, "INSERT INTO contacts (name, tenant_id) VALUES ($1, $2)", "Mallory", "globex")
	expectState("42501", err)
	limited, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err = acme.Exec(limited, "SELECT pg_sleep(30)"); err == nil {
		panic("the query was not cancelled")
	}
}

func open(ctx context.Context, tenant string) *pgxpool.Pool {
	location, err := url.Parse(os.Getenv("DATABASE_URL"))
	must(err)
	password, _ := location.User.Password()
	location.User = url.UserPassword("app_user."+tenant, password)
	pool, err := pgxpool.New(ctx, location.String())
	must(err)
	return pool
}

func check(ctx context.Context, tenant string, expected ...string) {
	pool := open(ctx, tenant)
	defer pool.Close()
	for range 3 { // pgx prepares the statement and caches it
		rows, _ := pool.Query(ctx, "SELECT name FROM contacts WHERE id > $1 ORDER BY id", 0)
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(err)
		if !slices.Equal(names, expected) {
			panic(fmt.Sprintf("%s: expected %v, got %v", tenant, expected, names))
		}
	}
}

func expectState(state string, err error) {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != state {
		panic(fmt.Sprintf("expected %s, got %v", state, err))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
