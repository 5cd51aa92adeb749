// Sequelize: what docs/orms.md shows, and what must hold.
import { DataTypes, Sequelize } from "sequelize";
import { assertIsolated } from "./isolation.ts";

await assertIsolated((url) => {
  const { hostname: host, port, pathname, ...login } = parse(url);
  const [database, username, password] = [pathname.slice(1), login.username, login.password];
  const tenant =
    //#region docs
    new Sequelize(database, username, password, { dialect: "postgres", host, port });
  //#endregion
  tenant.options.logging = false;
  const Row = tenant.define(
    "contact",
    { name: DataTypes.TEXT, tenant_id: DataTypes.TEXT },
    { tableName: "contacts", timestamps: false },
  );
  return {
    names: async () => (await Row.findAll({ order: ["id"] })).map(({ name }) => name),
    insert: (name, tenantId) =>
      tenantId === undefined ? Row.create({ name }, { fields: ["name"] }) : Row.create({ name, tenant_id: tenantId }),
    remove: (name) => Row.destroy({ where: { name } }),
    close: () => tenant.close(),
  };
});

/** The fields of the URL, decoded. */
function parse(url) {
  const { hostname, port, pathname, username, password } = new URL(url);
  return { hostname, port, pathname, username: decodeURIComponent(username), password: decodeURIComponent(password) };
}
