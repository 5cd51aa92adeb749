/**
 * The resolvers of a configuration, in the order they run, and what they need of the other settings. What starts, reloads,
 * checks and explains all read them here.
 */
import { clientAuthOf } from "./login-method.ts";
import { loadResolvers, ResolversError, type CodeResolver, type ResolverPlan } from "./resolvers-file.ts";
import type { Config } from "./settings.ts";

export type PlanConfig = Pick<
  Config,
  "resolvers" | "contextVariables" | "resolverUser" | "loginRoles" | "clientAuth" | "poolMode"
>;

/** @param code resolvers of the embedding program. @throws ResolversError. */
export function loadPlan(config: PlanConfig, code: readonly CodeResolver[] = []): ResolverPlan {
  const plan = loadResolvers(config.resolvers, code, config.contextVariables);
  const needs = [
    config.resolverUser === undefined ? "resolver_user" : undefined,
    clientAuthOf(config) === "relay" ? "client_auth = scram or cleartext" : undefined,
    config.loginRoles.length === 0 ? "login_roles" : undefined,
  ].filter((need) => need !== undefined);
  const problems = plan.flat().flatMap(({ name, onChange, roleColumn }) => {
    const tell = (problem: string): string => `${config.resolvers}: resolver "${name}": ${problem}`;
    return [
      ...(onChange === "terminate" && config.resolverUser === undefined
        ? [tell("on_change = terminate needs resolver_user")]
        : []),
      ...(roleColumn !== undefined && needs.length > 0 ? [tell(`inject_role needs ${needs.join(", ")}`)] : []),
    ];
  });
  if (problems.length > 0) throw new ResolversError(problems);
  return plan;
}

/** True where a resolver chooses the login role: then they run before the login, on connections of their own. */
export function choosesRole(plan: ResolverPlan): boolean {
  return plan.flat().some(({ roleColumn }) => roleColumn !== undefined);
}
