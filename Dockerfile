# Builds the program with all dependencies, runs it with the production ones alone, as a user without rights.
FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
RUN npm run build && npm prune --omit=dev --ignore-scripts

FROM node:24-slim
# Inside a container 127.0.0.1 cannot be reached from outside; everywhere else it stays the default.
ENV NODE_ENV=production PGVPD_HOST=0.0.0.0
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY sql ./sql
COPY sql /usr/local/share/pgvpd/sql
RUN ln -s /app/dist/main.js /usr/local/bin/pgvpd
USER node
EXPOSE 6432
ENTRYPOINT ["node", "/app/dist/main.js"]
