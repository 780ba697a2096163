// A replica of the design that this product began as: Express, bcrypt (cost 10), RS256 with the key parsed from PEM at every
// signature, an INSERT into PostgreSQL for the audit trail, Redis for counting. PORT, CLIENTS, DATABASE_URL and REDIS_PORT (may be
// empty: then without Redis) come from the environment. It ends on SIGTERM.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import bcrypt from 'bcrypt';
import express from 'express';
import { Redis } from 'ioredis';
import jwt from 'jsonwebtoken';
import pg from 'pg';

const issuer = `http://127.0.0.1:${process.env.PORT}`;
const pem = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ type: 'pkcs8', format: 'pem' });
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 20 });
const redis = process.env.REDIS_PORT ? new Redis(Number(process.env.REDIS_PORT), '127.0.0.1') : null;

await pool.query('CREATE TABLE IF NOT EXISTS clients (client_id text PRIMARY KEY, secret_hash text NOT NULL, scope text NOT NULL, status text NOT NULL)');
await pool.query(`CREATE TABLE IF NOT EXISTS audit_events (event_id uuid PRIMARY KEY, agent_id text NOT NULL, action text NOT NULL, outcome text NOT NULL,
  ip_address text, user_agent text, metadata jsonb NOT NULL, timestamp timestamptz NOT NULL DEFAULT now())`);
await Promise.all(
  Array.from({ length: Number(process.env.CLIENTS) }, async (_, index) => {
    const hash = await bcrypt.hash(`secret-${index}-0123456789abcdef0123456789abcdef`, 10);
    await pool.query('INSERT INTO clients VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING', [`client-${index}`, hash, 'agents:read tokens:read', 'active']);
  }),
);

async function withinLimits(clientId) {
  if (!redis) return true;
  const minute = Math.floor(Date.now() / 60_000);
  const calls = await redis.incr(`rate:${clientId}:${minute}`);
  if (calls === 1) await redis.expire(`rate:${clientId}:${minute}`, 60);
  const month = await redis.incr(`tokens:${clientId}:${new Date().toISOString().slice(0, 7)}`);
  return month > 0;
}

const app = express();
app.use(express.urlencoded({ extended: false }));
app.post('/api/v1/token', async (request, response) => {
  const { client_id: clientId, client_secret: secret, grant_type: grant } = request.body;
  if (grant !== 'client_credentials') return response.status(400).json({ error: 'unsupported_grant_type' });
  const { rows } = await pool.query('SELECT secret_hash, scope, status FROM clients WHERE client_id = $1', [clientId]);
  if (!rows.length || rows[0].status !== 'active' || !(await bcrypt.compare(secret, rows[0].secret_hash)))
    return response.status(401).json({ error: 'invalid_client' });
  if (!(await withinLimits(clientId))) return response.status(429).json({ error: 'rate_limited' });
  const token = jwt.sign({ sub: clientId, client_id: clientId, scope: rows[0].scope, jti: randomUUID() }, pem, { algorithm: 'RS256', expiresIn: 3600, issuer });
  await pool.query('INSERT INTO audit_events (event_id, agent_id, action, outcome, ip_address, user_agent, metadata) VALUES ($1, $2, $3, $4, $5, $6, $7)', [
    randomUUID(), clientId, 'token.issued', 'success', request.ip, request.get('user-agent') ?? '', JSON.stringify({ scope: rows[0].scope }),
  ]);
  return response.json({ access_token: token, token_type: 'Bearer', expires_in: 3600, scope: rows[0].scope });
});
app.listen(Number(process.env.PORT), '127.0.0.1').keepAliveTimeout = 75_000;
process.on('SIGTERM', () => process.exit(0));
