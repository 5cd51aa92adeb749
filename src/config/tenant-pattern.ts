/**
 * The tenants that a setting or a line of a file is for: exact values, and patterns in which `*` is any run of characters,
 * an empty one too, and everything else is itself. Case counts.
 */

export class TenantPattern {
  /** What stands between the `*`s; one part alone is an exact value. */
  readonly parts: readonly string[];

  constructor(parts: readonly string[]) {
    this.parts = parts;
  }

  /** Of text in which every `*` is one. */
  static of(text: string): TenantPattern {
    return new TenantPattern(text.split("*"));
  }

  get isExact(): boolean {
    return this.parts.length === 1;
  }

  /** How many characters are given: of several patterns that match, the one with the most is meant. */
  get literalLength(): number {
    return this.parts.reduce((sum, part) => sum + part.length, 0);
  }

  /** Takes each part where it comes first and never goes back, so that time is linear. */
  matches(tenant: string): boolean {
    const first = this.parts[0] ?? "";
    if (this.isExact) return tenant === first;
    const last = this.parts.at(-1) ?? "";
    const end = tenant.length - last.length;
    if (end < first.length || !tenant.startsWith(first) || !tenant.endsWith(last)) return false;
    let at = first.length;
    for (const part of this.parts.slice(1, -1)) {
      const found = tenant.indexOf(part, at);
      if (found === -1) return false;
      at = found + part.length;
    }
    return at <= end;
  }
}
