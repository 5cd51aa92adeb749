/** What a reload takes from a configuration that was read anew, and what it cannot. */
import type { EffectiveSetting, LoadedConfig } from "./load.ts";
import { Secret } from "./secret.ts";
import { settingList, type Config, type SettingKey } from "./settings.ts";

export type ShownConfig = Pick<LoadedConfig, "config" | "effective">;

export interface Reloaded extends ShownConfig {
  /** Names of settings whose new value needs a restart. */
  readonly needRestart: readonly string[];
  /** Puts new passwords into the places of the old, in `started` and everywhere that shares them. */
  takeSecrets(): void;
}

/** @param started the configuration that the program was started with. */
export function takeReloadable(started: ShownConfig, read: ShownConfig): Reloaded {
  const taken: Partial<Record<SettingKey, unknown>> = {};
  const needRestart: string[] = [];
  const secrets: (() => void)[] = [];
  for (const [key, { name, isReloadable }] of settingList) {
    const [before, now] = [started.config[key], read.config[key]];
    if (isReloadable) taken[key] = now;
    else if (before instanceof Secret && now instanceof Secret) secrets.push(() => before.replace(now));
    else if (JSON.stringify(before) !== JSON.stringify(now)) needRestart.push(name);
  }
  const isTaken = ({ name }: EffectiveSetting): boolean => !needRestart.includes(name);
  return {
    config: Object.freeze({ ...started.config, ...taken } as Config),
    effective: [...read.effective.filter(isTaken), ...started.effective.filter((setting) => !isTaken(setting))],
    needRestart,
    takeSecrets() {
      for (const take of secrets) take();
    },
  };
}
