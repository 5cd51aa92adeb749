/**
 * Settings from PGVPD_* variables. Kubernetes puts variables of its own beside them for a Service named pgvpd; those are
 * told apart and ignored with one warning. An unknown variable is a warning too: it may be somebody else's.
 */
import type { Assignment } from "./assignment.ts";
import { suggest } from "./nearest-name.ts";
import { settingList } from "./settings.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

const PREFIX = "PGVPD_";

/** Variables that are no settings: the tests' and the benchmark's own. */
const NOT_SETTINGS = /^PGVPD_(TEST|BENCH|FUZZ|LOAD)(_|$)/;

export function readEnvironment(env: Environment, warnings: string[]): Assignment[] {
  const byVariable = new Map(settingList.map(([, setting]) => [setting.env, setting]));
  const assignments: Assignment[] = [];
  const injected: string[] = [];
  for (const [variable, value] of Object.entries(env)) {
    if (value === undefined || !variable.startsWith(PREFIX) || NOT_SETTINGS.test(variable)) continue;
    if (isOfKubernetes(variable, value)) {
      injected.push(variable);
      continue;
    }
    const setting = byVariable.get(variable);
    if (setting !== undefined) {
      assignments.push({ name: setting.name, value, origin: variable });
      continue;
    }
    const hint = suggest(variable.slice(PREFIX.length), variablesByName());
    warnings.push(`${variable} is no setting of pgvpd${hint && `: ${hint}`}`);
  }
  if (injected.length > 0) {
    warnings.push(
      `ignored ${injected.join(", ")}: Kubernetes sets them for a Service named pgvpd; ` +
        "set enableServiceLinks: false in the pod's specification",
    );
  }
  return assignments;
}

/** Every name that a setting goes by, PGVPD_HOST's `host` among them, with its variable. */
function variablesByName(): Map<string, string> {
  return new Map(
    settingList.flatMap(([, { name, aliases, env }]) =>
      [name, env.slice(PREFIX.length).toLowerCase(), ...aliases].map((known): [string, string] => [known, env]),
    ),
  );
}

/**
 * `PGVPD_PORT=tcp://10.0.0.1:6432`, `PGVPD_SERVICE_HOST`, `PGVPD_PORT_6432_TCP_ADDR`; and `PGVPD_ADMIN_PORT=tcp://...` of a
 * Service named pgvpd-admin.
 */
function isOfKubernetes(variable: string, value: string): boolean {
  return (
    (variable.endsWith("_PORT") && /^(tcp|udp|sctp):\/\//.test(value)) ||
    /_SERVICE_(HOST|PORT)(_|$)/.test(variable) ||
    /_PORT_\d+_(TCP|UDP|SCTP)(_|$)/.test(variable)
  );
}
