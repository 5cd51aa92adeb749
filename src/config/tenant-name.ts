/**
 * A tenant under the one name that it is counted and looked up by. PostgreSQL reads many spellings of a UUID as the same
 * value: upper case, braces, hyphens behind any four digits or none. Every other name is what it is, byte for byte.
 */
import { TenantPattern } from "./tenant-pattern.ts";

const UUID = /^(\{?)[0-9a-f]{4}(?:-?[0-9a-f]{4}){7}(\}?)$/i;

/** In lower case and with the usual hyphens where it is a UUID; as it is otherwise. */
export function canonicalTenant(tenant: string): string {
  const [, open, close] = UUID.exec(tenant) ?? [];
  if (open === undefined || (open === "") !== (close === "")) return tenant;
  const digits = tenant.toLowerCase().replace(/[^0-9a-f]/g, "");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

const isUuid = (canonical: string): boolean => /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/.test(canonical);

/** A pattern of tenants in any spelling: those of UUIDs are compared without case and braces, with hyphens and without. */
export class TenantMatch {
  readonly text: string;
  readonly #pattern: TenantPattern;
  readonly #ofUuids: TenantPattern;

  /** The one tenant that matches; undefined where there is a `*`. */
  readonly only: string | undefined;

  constructor(text: string) {
    this.text = text;
    this.only = text.includes("*") ? undefined : canonicalTenant(text);
    this.#pattern = TenantPattern.of(canonicalTenant(text));
    this.#ofUuids = TenantPattern.of(canonicalTenant(text).toLowerCase().replace(/[{}]/g, ""));
  }

  /** @param canonical of canonicalTenant. */
  matches(canonical: string): boolean {
    if (!isUuid(canonical)) return this.#pattern.matches(canonical);
    return this.#ofUuids.matches(canonical) || this.#ofUuids.matches(canonical.replaceAll("-", ""));
  }
}
