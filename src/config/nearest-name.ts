/**
 * What somebody meant who wrote a name that is none: PgBouncer's name for it, or the one that is spelled most alike.
 * Hyphens, underscores and the case of letters do not count.
 */

/** PgBouncer's settings whose name is not ours, and what pgvpd calls them; null where it has nothing of the kind. */
const PGBOUNCER: ReadonlyMap<string, string | null> = new Map([
  ["listen_addr", "listen_host"],
  ["default_pool_size", "pool_size"],
  ["query_wait_timeout", "pool_checkout_timeout"],
  ["server_idle_timeout", "pool_idle_timeout"],
  ["client_login_timeout", "handshake_timeout"],
  ["server_tls_sslmode", "upstream_tls"],
  ["server_tls_ca_file", "upstream_tls_ca"],
  ["server_tls_cert_file", "upstream_tls_cert"],
  ["server_tls_key_file", "upstream_tls_key"],
  ["client_tls_cert_file", "tls_cert"],
  ["client_tls_key_file", "tls_key"],
  ["auth_type", "client_auth"],
  ["auth_file", "credentials_file"],
  ["auth_hba_file", "allow_from"],
  ["admin_users", "superuser_bypass"],
  ["verbose", "log_level"],
  ...[
    ["max_client_conn", "max_user_connections"],
    ["server_reset_query", "server_check_query", "server_connect_timeout", "server_login_retry"],
    ["client_idle_timeout", "query_timeout", "transaction_timeout"],
    ["tcp_keepcnt", "tcp_keepintvl", "so_reuseport", "listen_backlog", "stats_users"],
    ["logfile", "pidfile", "syslog", "user", "job_name", "stats_period", "log_stats", "log_pooler_errors"],
  ].flatMap((names) => names.map((name): [string, null] => [name, null])),
]);

/**
 * A sentence that helps, or an empty text.
 *
 * @param known the names that there are, each with how it is written in this place: as itself, a flag, a variable.
 */
export function suggest(name: string, known: ReadonlyMap<string, string>): string {
  const folded = name.toLowerCase().replaceAll("-", "_");
  if (!known.has(folded)) {
    const ours = PGBOUNCER.get(folded);
    if (ours === null) return `PgBouncer's ${folded} has no counterpart here`;
    if (ours !== undefined) return `PgBouncer's ${folded} is ${known.get(ours) ?? ours} here`;
  }
  return nearest(name, known);
}

/** `did you mean X?` for a name that is spelled like a known one, or an empty text. */
export function nearest(name: string, known: ReadonlyMap<string, string>): string {
  const folded = name.toLowerCase().replaceAll("-", "_");
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const [candidate, written] of known) {
    const distance = editDistance(folded, candidate);
    if (distance < bestDistance) [best, bestDistance] = [written, distance];
  }
  return best === undefined ? "" : `did you mean ${best}?`;
}

/** Levenshtein's distance; names are short, and cut to 64 characters. */
function editDistance(left: string, right: string): number {
  const [a, b] = [left.slice(0, 64), right.slice(0, 64)];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}
