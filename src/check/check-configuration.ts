/**
 * Whether the configuration can be started with: every problem, every warning, and what was given where.
 */
import { ConfigError } from "../config/config-error.ts";
import { loadConfig, type ConfigSources } from "../config/load.ts";
import type { Config } from "../config/settings.ts";
import type { Finding } from "./finding.ts";

export interface ConfigurationCheck {
  readonly findings: readonly Finding[];
  /** Undefined where there is an error. */
  readonly config: Config | undefined;
}

export function checkConfiguration(sources: ConfigSources): ConfigurationCheck {
  try {
    const { config, file, given, warnings } = loadConfig(sources);
    const from = file === undefined ? "there is no pgvpd.conf here" : `read ${file}`;
    const ok = [
      `configuration: valid (${from})`,
      ...given.map(({ name, value, origin }) => `configuration: ${name} is ${value} (${origin})`),
    ];
    return { findings: [...ok.map(asFinding("ok")), ...warnings.map(asFinding("warning"))], config };
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const { problems, warnings } = error;
    return {
      findings: [...problems.map(asFinding("error")), ...warnings.map(asFinding("warning"))],
      config: undefined,
    };
  }
}

function asFinding(verdict: Finding["verdict"]): (text: string) => Finding {
  return (text) => ({ verdict, text });
}
