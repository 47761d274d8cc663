// An OpenID provider for tests, the npm package oidc-provider. It gets its settings as JSON in OPENID, says
// {"port":N} when it is ready, and ends when its standard input does.
import Provider from 'oidc-provider';
import { generateKeyPair, exportJWK } from 'jose';
import { randomUUID } from 'node:crypto';

const { issuer, redirects } = JSON.parse(process.env.OPENID);
const resources = {
  'urn:image-builder': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } },
  'urn:image-builder:es256': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } }, audience: 'urn:image-builder' },
  'urn:image-builder:opaque': { accessTokenFormat: 'opaque', audience: 'urn:image-builder' },
  'urn:other': { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } } },
};
const scopes = ['email', 'builds:submit', 'builds:read', 'builds:read:all', 'builds:admin'];
const program = (client_id) => ({ client_id, client_secret: `${client_id}-secret`, grant_types: ['client_credentials'], redirect_uris: [], response_types: [] });
const browser = { application_type: 'web', grant_types: ['authorization_code', 'refresh_token'], redirect_uris: redirects, response_types: ['code'] };
const people = { alice: { groups: ['team-a'] }, bob: { groups: ['team-b'], roles: ['builds:read:all'] }, carol: { roles: ['builds:admin'] } };

async function key(alg) {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  return { ...await exportJWK(privateKey), alg, use: 'sig', kid: randomUUID() };
}

const provider = new Provider(issuer, {
  jwks: { keys: [await key('RS256'), await key('ES256')] },
  clients: [
    program('image-builder'), // the service itself, which asks about tokens
    program('ci'), program('deployer'), program('short'),
    ...(redirects.length === 0 ? [] : [
      { ...browser, client_id: 'web', token_endpoint_auth_method: 'none' },
      { ...browser, client_id: 'web-secret', client_secret: 'web-secret-secret' },
    ]),
  ],
  scopes: ['openid', 'offline_access', ...scopes],
  claims: { openid: ['sub'], email: ['email'], profile: ['preferred_username'] },
  conformIdTokenClaims: false,
  findAccount: (ctx, sub) => ({ accountId: sub, claims: () => ({ sub, email: `${sub}@example.org`, preferred_username: `${sub}.example` }) }),
  extraTokenClaims: (ctx, token) => people[token.accountId] ?? (token.clientId === 'deployer' ? { groups: ['team-a'], realm_access: { roles: ['builds:read:all'] } } : {}),
  ttl: {
    ClientCredentials: (ctx, token, client) => (client.clientId === 'short' ? 2 : 600),
    AccessToken: 600, IdToken: 600, Session: 600, Grant: 600, Interaction: 600, RefreshToken: 600,
  },
  pkce: { required: () => true },
  cookies: { keys: ['for tests'] },
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    devInteractions: { enabled: true }, // its own forms: any name signs in
    resourceIndicators: {
      enabled: true, useGrantedResource: () => true, defaultResource: () => undefined,
      getResourceServerInfo: (ctx, resource) => {
        if (!resources[resource]) throw new Error(`no resource ${resource}`);
        return { scope: scopes.join(' '), audience: resource, accessTokenTTL: 600, ...resources[resource] };
      },
    },
  },
});
const server = provider.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));
process.stdin.on('end', () => process.exit(0)).resume();
