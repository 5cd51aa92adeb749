/**
 * Every scenario there is, in the order in which they run. A new one is a file beside this one and a line here.
 */
import type { Scenario } from "../scenario.ts";
import { copyScenarios } from "./bulk-copy.ts";
import { connectScenarios } from "./connects.ts";
import { idleMemory } from "./idle-memory.ts";
import { loginBurst } from "./login-burst.ts";
import { loginResolvers } from "./login-resolvers.ts";
import { policyScenarios } from "./policy-cost.ts";
import { poolScenarios } from "./pools.ts";
import { queryScenarios } from "./queries.ts";
import { sealScenarios } from "./seal.ts";
import { tenantFlood } from "./tenant-flood.ts";

export const allScenarios: readonly Scenario[] = [
  ...queryScenarios,
  ...connectScenarios,
  loginBurst,
  loginResolvers,
  ...copyScenarios,
  ...sealScenarios,
  ...poolScenarios,
  idleMemory,
  tenantFlood,
  ...policyScenarios,
];
