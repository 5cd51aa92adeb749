/** What a reload takes from a configuration that was read anew, and what it cannot. */
import { Secret } from "./secret.ts";
import { settingList, type Config, type SettingKey } from "./settings.ts";

export interface Reloaded {
  /** The configuration as it is from now on. */
  readonly config: Config;
  /** Names of settings whose new value needs a restart. */
  readonly needRestart: readonly string[];
}

/** @param started the configuration that the program was started with. */
export function takeReloadable(started: Config, read: Config): Reloaded {
  const taken: Partial<Record<SettingKey, unknown>> = {};
  const needRestart: string[] = [];
  for (const [key, { name, isReloadable }] of settingList) {
    if (isReloadable) taken[key] = read[key];
    else if (textOf(read[key]) !== textOf(started[key])) needRestart.push(name);
  }
  return { config: Object.freeze({ ...started, ...taken } as Config), needRestart };
}

function textOf(value: unknown): string {
  return value instanceof Secret ? value.reveal() : (JSON.stringify(value) ?? "");
}
