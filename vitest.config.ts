import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/{unit,wire,fuzz,integration,isolation}/**/*.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
    globalSetup: ["test/support/global-setup.ts"],
  },
});
