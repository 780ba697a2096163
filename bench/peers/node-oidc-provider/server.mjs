// node-oidc-provider as a token server: in-memory adapter, JWT access tokens (RFC 9068) signed with ES256, client credentials.
// PORT and CLIENTS (how many; client-0 … with secret-0 …) come from the environment. It ends on SIGTERM.
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const port = Number(process.env.PORT);
const issuer = `http://127.0.0.1:${port}`;
const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
const clients = Array.from({ length: Number(process.env.CLIENTS) }, (_, index) => ({
  client_id: `client-${index}`,
  client_secret: `secret-${index}-0123456789abcdef0123456789abcdef`,
  grant_types: ['client_credentials'],
  redirect_uris: [],
  response_types: [],
  id_token_signed_response_alg: 'ES256',
  token_endpoint_auth_method: 'client_secret_basic',
}));

const provider = new Provider(issuer, {
  clients,
  jwks: { keys: [{ ...key, kid: 'bench', alg: 'ES256', use: 'sig' }] },
  ttl: { ClientCredentials: 3600 },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => issuer,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'agents:read tokens:read',
        audience: issuer,
        accessTokenTTL: 3600,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256', kid: 'bench' } },
      }),
    },
  },
});
const server = provider.listen(port, '127.0.0.1');
server.keepAliveTimeout = 75_000;
process.on('SIGTERM', () => process.exit(0));
