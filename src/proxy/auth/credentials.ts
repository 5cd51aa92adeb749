/**
 * Where the verifiers of clients come from, in order: `credentials_file`, `auth_query`, `pool_password`. A name that none
 * of them knows gets a verifier all the same, which no password fits: whoever tries learns nothing from the difference.
 */
import { createHash, createHmac, randomBytes } from "node:crypto";
import { clientAuthOf } from "../../config/login-method.ts";
import { readSecretFile } from "../../config/secret-file.ts";
import type { Config } from "../../config/settings.ts";
import { deriveVerifier } from "../../protocol/scram/keys.ts";
import type { ScramVerifier } from "../../protocol/scram/verifier.ts";
import type { Identity } from "../tenant/identity.ts";
import { AuthQuery, type AuthQueryServices } from "./auth-query.ts";
import { isScram, type Credential, type FoundCredential } from "./credential.ts";
import { loadCredentialsFile, type CredentialsFile } from "./credentials-file.ts";

const SALT_BYTES = 16;

type CredentialsConfig = Pick<
  Config,
  | "clientAuth"
  | "poolMode"
  | "poolPassword"
  | "scramIterations"
  | "credentialsFile"
  | "authUser"
  | "upstreamPassword"
  | "upstreamTlsCert"
  | "upstreamRequireAuth"
>;

export interface CredentialSources {
  readonly file: CredentialsFile | undefined;
  readonly authQuery: AuthQuery | undefined;
  /** The same in every process that serves the same clients; random where there is nothing to derive it from. */
  readonly mockKey?: Buffer;
}

export class Credentials {
  readonly #config: CredentialsConfig;
  readonly #authQuery: AuthQuery | undefined;
  readonly #mockKey: Buffer;
  #file: CredentialsFile | undefined;
  /** Of `pool_password`; made when it is needed first. */
  #sharedVerifier: { readonly password: string; readonly verifier: Promise<ScramVerifier> } | undefined;

  constructor(config: CredentialsConfig, { file, authQuery, mockKey = randomBytes(32) }: CredentialSources) {
    this.#config = config;
    this.#authQuery = authQuery;
    this.#mockKey = mockKey;
    this.#useFile(file);
  }

  /** With all that the configuration names. @throws Error naming the file, the line and what is wrong. */
  static open(config: Config, services: AuthQueryServices): Credentials {
    const { authUser, tlsKey } = config;
    return new Credentials(config, {
      file: loadCredentialsFile(config),
      authQuery: authUser === undefined ? undefined : new AuthQuery(config, services),
      ...(tlsKey === undefined ? {} : { mockKey: deriveMockKey(readSecretFile(tlsKey)) }),
    });
  }

  /**
   * Reads `credentials_file` again.
   *
   * @returns what puts it to use, for logins from now on.
   * @throws Error naming the file, the line and what is wrong.
   */
  prepareReload(): () => void {
    const file = loadCredentialsFile(this.#config);
    return () => this.#useFile(file);
  }

  /** Closes the connection of auth_query. */
  close(): void {
    this.#authQuery?.close();
  }

  /**
   * How pgvpd checks this identity's password itself; undefined where PostgreSQL does. A bypass user passes untouched,
   * unless the file has a line for it.
   */
  methodFor(identity: Identity): "scram" | "cleartext" | undefined {
    const method = clientAuthOf(this.#config);
    if (method === "relay") return undefined;
    return identity.kind === "tenant" || this.#fromFile(identity.loginRole, undefined) !== undefined
      ? method
      : undefined;
  }

  /** @throws ProxyError credentials_unavailable; whatever aborts `signal`. */
  async find(identity: Identity, signal: AbortSignal): Promise<FoundCredential> {
    const tenant = identity.kind === "tenant" ? identity.tenant : undefined;
    // Made for everybody: a name that exists must not be told by the time that this takes.
    const mock = this.#mock(identity.user);
    const found =
      this.#fromFile(identity.loginRole, tenant) ??
      (await this.#authQuery?.find(identity.loginRole, tenant, signal)) ??
      (await this.#shared());
    if (found === undefined) return { ...mock, problem: "no credential has this name" };
    if (!isScram(found.verifier) && clientAuthOf(this.#config) === "scram") {
      return {
        ...mock,
        problem: "the role's password is stored as MD5: set it again, or use client_auth = cleartext",
      };
    }
    return { ...found, problem: undefined };
  }

  #useFile(file: CredentialsFile | undefined): void {
    this.#file = file;
    this.#authQuery?.logInWith(file?.ownPassword(this.#config.authUser ?? ""));
  }

  #fromFile(role: string, tenant: string | undefined): Credential | undefined {
    const line = this.#file?.find(role, tenant);
    return line && { verifier: line.verifier, isForeign: line.isBound };
  }

  async #shared(): Promise<Credential | undefined> {
    const { poolPassword, scramIterations } = this.#config;
    if (poolPassword === undefined) return undefined;
    const password = poolPassword.reveal();
    if (this.#sharedVerifier?.password !== password) {
      const verifier = deriveVerifier(password, randomBytes(SALT_BYTES), scramIterations);
      this.#sharedVerifier = { password, verifier };
    }
    return { verifier: await this.#sharedVerifier.verifier, isForeign: true };
  }

  /** The same salt for the same name at each try, as PostgreSQL does for a role that does not exist. */
  #mock(user: string): Credential {
    const derive = (purpose: string): Buffer =>
      createHmac("sha256", this.#mockKey).update(`${purpose}\0${user}`).digest();
    const verifier = {
      iterations: this.#config.scramIterations,
      salt: derive("salt").subarray(0, SALT_BYTES),
      storedKey: derive("stored key"),
      serverKey: derive("server key"),
    };
    return { verifier, isForeign: true };
  }
}

/** The salts of names that do not exist, the same in every process with this TLS key, and of no use to who sees them. */
function deriveMockKey(privateKey: Buffer): Buffer {
  return createHash("sha256").update("pgvpd: salts of names that do not exist\0").update(privateKey).digest();
}
