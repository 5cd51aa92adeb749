/**
 * What somebody meant who wrote a name that is none: PgBouncer's name for it, or the one that is spelled most alike.
 */

/** PgBouncer's settings, and what pgvpd calls them; null where it has nothing of the kind. */
const PGBOUNCER: Readonly<Record<string, string | null>> = {
  listen_addr: "listen_host",
  default_pool_size: "pool_size",
  query_wait_timeout: "pool_checkout_timeout",
  server_idle_timeout: "pool_idle_timeout",
  client_login_timeout: "handshake_timeout",
  server_tls_sslmode: "upstream_tls",
  server_tls_ca_file: "upstream_tls_ca",
  client_tls_cert_file: "tls_cert",
  client_tls_key_file: "tls_key",
  admin_users: "superuser_bypass",
  auth_type: null,
  auth_file: null,
  server_reset_query: null,
  logfile: null,
  pidfile: null,
};

/** A sentence that helps, or an empty text. */
export function suggest(name: string, known: readonly string[]): string {
  const folded = name.toLowerCase();
  const ours = PGBOUNCER[folded];
  if (ours === null) return `PgBouncer's ${folded} has no counterpart here`;
  if (ours !== undefined) return `PgBouncer's ${folded} is ${ours} here`;
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(folded, candidate);
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
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
