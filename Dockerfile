# A plain image: Node comes with the dependencies (package "node"), models compile into /data on first start.
FROM node:22-bookworm-slim AS install
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev

FROM node:22-bookworm-slim
WORKDIR /app
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8080 CACHE_DIR=/data
COPY --from=install /app/node_modules node_modules
COPY package.json ./
COPY protocol protocol
COPY workers workers
COPY src src
COPY clients clients
RUN mkdir /data && chown node:node /data
USER node
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["node_modules/.bin/node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/readyz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# A public HOST needs API_KEY, or ALLOW_OPEN=1 where something in front of it does the checking.
CMD ["node_modules/.bin/node", "src/supervisor.ts"]
