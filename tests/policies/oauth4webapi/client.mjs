// A strict client, oauth4webapi: everything that discovery lists, used as a stranger would. Reads what it is on stdin, writes what came of each step as JSON.

import * as oauth from 'oauth4webapi'
import { readFileSync } from 'node:fs'

const given = JSON.parse(readFileSync(0, 'utf8'))
const http = { [oauth.allowInsecureRequests]: true } // loopback without TLS
const issuer = new URL(given.issuer)
const GRANT = 'urn:ietf:params:oauth:grant-type:'
const TYPE = 'urn:ietf:params:oauth:token-type:'
const ALGORITHMS = {
  ES256: { name: 'ECDSA', namedCurve: 'P-256' },
  RS256: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
  Ed25519: { name: 'Ed25519' },
}

const discover = async (algorithm) =>
  oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm, ...http }))
const as = await discover('oidc')
const client = { client_id: given.clientId }
const secret = oauth.ClientSecretBasic(given.clientSecret)
const resource = new URL('/agent-info', issuer)
const plain = await discover('oauth2')
const done = { oidc: as.issuer, oauth2: plain.issuer }

const credentials = async (auth, parameters = { scope: 'agents:read tokens:read' }, options = {}) =>
  oauth.processClientCredentialsResponse(
    as, client, await oauth.clientCredentialsGrantRequest(as, client, auth, new URLSearchParams(parameters), { ...http, ...options }))
const granted = async (type, parameters, options = {}) =>
  oauth.processGenericTokenEndpointResponse(
    as, client, await oauth.genericTokenEndpointRequest(as, client, oauth.None(), type, new URLSearchParams(parameters), { ...http, ...options }))
const introspected = async (auth, token) =>
  oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, auth, token, http))
const revoke = async (auth, token) =>
  oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token, http))
const validated = (request) => oauth.validateJwtAccessToken(as, request, given.issuer, http)
const refusal = async (asked) => {
  try {
    await asked()
  } catch (error) {
    if (error instanceof oauth.ResponseBodyError) return [error.status, error.error, error.error_description !== undefined]
    if (error instanceof oauth.WWWAuthenticateChallengeError) return [error.status, ...error.cause.map(({ scheme, parameters }) => [scheme, parameters.error])]
    throw error
  }
  return 'accepted'
}
const retried = async (asked) => { // RFC 9449 section 8: the first proof has no nonce
  try {
    return [await asked(), false]
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error
    return [await asked(), true]
  }
}

const metadata = await oauth.processResourceDiscoveryResponse(issuer, await oauth.resourceDiscoveryRequest(issuer, http))
done.resource = metadata.authorization_servers

// Every way to authenticate that is listed, at the three endpoints.
const methods = { client_secret_basic: secret, client_secret_post: oauth.ClientSecretPost(given.clientSecret) }
for (const [algorithm, pem] of Object.entries(given.keys)) {
  const key = await crypto.subtle.importKey('pkcs8', Buffer.from(pem, 'base64'), ALGORITHMS[algorithm], false, ['sign'])
  methods[`private_key_jwt ${algorithm}`] = oauth.PrivateKeyJwt(key)
}
done.methods = {}
for (const [name, auth] of Object.entries(methods)) {
  const answer = await credentials(auth)
  const claims = await validated(new Request(resource, { headers: { Authorization: `Bearer ${answer.access_token}` } }))
  const before = await introspected(auth, answer.access_token)
  await revoke(auth, answer.access_token)
  const after = await introspected(auth, answer.access_token)
  done.methods[name] = [answer.token_type, answer.scope, claims.sub, before.active, after.active]
}

// An ID token, by the metadata of OAuth alone: its algorithm is one that they name.
const identified = await oauth.processClientCredentialsResponse(
  plain, client, await oauth.clientCredentialsGrantRequest(plain, client, secret, new URLSearchParams({ scope: 'openid' }), http))
done.identified = [oauth.getValidatedIdTokenClaims(identified)?.sub, plain.id_token_signing_alg_values_supported, plain.token_endpoint_auth_methods_supported.includes('none')]

// Tokens bound to a key, for every algorithm that is listed.
done.bound = {}
for (const algorithm of as.dpop_signing_alg_values_supported) {
  const pair = await oauth.generateKeyPair(algorithm, { extractable: true })
  const DPoP = oauth.DPoP(client, pair)
  const [answer, hadToRetry] = await retried(() => credentials(secret, { scope: 'openid tokens:read' }, { DPoP }))
  const [info] = await retried(() => oauth.userInfoRequest(as, client, answer.access_token, { DPoP, ...http }))
  const agent = await oauth.processUserInfoResponse(as, client, given.agentId, info)
  const { cnf } = await introspected(secret, answer.access_token)
  const [exchanged] = await retried(() => granted(`${GRANT}token-exchange`, { subject_token: answer.access_token, subject_token_type: `${TYPE}access_token` }, { DPoP }))
  done.bound[algorithm] = [
    answer.token_type, hadToRetry, agent.sub, cnf.jkt === await DPoP.calculateThumbprint(), exchanged.token_type,
    await refusal(() => oauth.protectedResourceRequest(answer.access_token, 'GET', resource, undefined, undefined, http)),
  ]
}

// The grants without a client.
const outside = await granted(`${GRANT}jwt-bearer`, { assertion: given.outsideTokens[0], scope: 'agents:read' })
const other = await granted(`${GRANT}token-exchange`, { subject_token: given.outsideTokens[1], subject_token_type: `${TYPE}jwt`, unknown: 'ignored' })
const own = await credentials(secret)
const less = await granted(`${GRANT}token-exchange`, { subject_token: own.access_token, subject_token_type: `${TYPE}access_token`, scope: 'agents:read' })
done.grants = [outside.scope, other.issued_token_type, less.scope]

done.refusals = {
  replayed: await refusal(() => granted(`${GRANT}jwt-bearer`, { assertion: given.outsideTokens[0] })),
  garbage: await refusal(() => granted(`${GRANT}jwt-bearer`, { assertion: 'x' })),
  unacceptable: await refusal(() => granted(`${GRANT}token-exchange`, { subject_token: 'x', subject_token_type: `${TYPE}access_token` })),
  wider: await refusal(() => granted(`${GRANT}token-exchange`, { subject_token: less.access_token, subject_token_type: `${TYPE}access_token`, scope: 'tokens:read' })),
  audience: await refusal(() => granted(`${GRANT}token-exchange`, { subject_token: own.access_token, subject_token_type: `${TYPE}access_token`, audience: 'https://example.com' })),
  'no subject': await refusal(() => granted(`${GRANT}token-exchange`, { subject_token_type: `${TYPE}access_token` })),
  secret: await refusal(() => credentials(oauth.ClientSecretBasic('wrong'))),
  scope: await refusal(() => credentials(secret, { scope: 'no:such' })),
  grant: await refusal(() => granted('password', {})),
  bearer: await refusal(() => oauth.protectedResourceRequest('x', 'GET', resource, undefined, undefined, http)),
}
console.log(JSON.stringify(done))
