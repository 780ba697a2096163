"""/oidc/trust-policies: whose tokens are good for which agent, and why one is not."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi import Query as QueryParameter
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from starlette.requests import Request
from starlette.responses import Response

from agentidp.agents.rules import AgentNotActive, AgentNotFound, OrganizationNotActive
from agentidp.auth.guard import GuardedRoute, caller_of, read, write
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.scopes import DEFAULT_SCOPES, SCOPES
from agentidp.core import limits
from agentidp.core.addresses import ForbiddenUrl, check_url
from agentidp.core.errors import InvalidAddress, InvalidFields, InvalidScopes
from agentidp.core.operations import secured
from agentidp.core.resources import UNIQUE_SCHEMA, InstantOut, Page, PageParameters, RequestBody, Resource, Unique, Uuid
from agentidp.credentials.rules import TooManyCredentials
from agentidp.db.paging import page_request
from agentidp.policies import actions, explaining, queries
from agentidp.policies.providers import ProviderName
from agentidp.policies.rules import REPOSITORY_PATTERN, NewPolicy, Policy, PolicyNotFound, TooManyPolicies, issuer_for, organization_audience, require_sound

router = APIRouter(prefix="/api/v1/oidc/trust-policies", tags=["Trust policies"], route_class=GuardedRoute)

_Text = Annotated[str, StringConstraints(min_length=1, max_length=limits.CLAIM_CHARACTERS_MAX, pattern=r"^[^\x00-\x1f\x7f]+$")]
# what is stricter here, `require_sound` refuses with a better sentence
Value = Annotated[_Text, Field(json_schema_extra={"pattern": r"^[^*\x00-\x1f\x7f]+$"})]
Prefix = Annotated[_Text, Field(json_schema_extra={"pattern": r"^[^*\x00-\x1f\x7f]*[A-Za-z0-9][^*\x00-\x1f\x7f]*[/:@]$"})]
ClaimName = Annotated[str, StringConstraints(min_length=1, max_length=limits.CLAIM_NAME_CHARACTERS_MAX, pattern=r"^[!-~]+$")]
Address = Annotated[str, StringConstraints(min_length=1, max_length=limits.RESOURCE_CHARACTERS_MAX, pattern=r"^https?://[!-~]+$")]
Repository = Annotated[str, StringConstraints(max_length=256, pattern=REPOSITORY_PATTERN)]
Branch = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x20\x7f~^:?*\[\\]+$")]
Scope = Annotated[str, StringConstraints(max_length=64), Field(json_schema_extra={"enum": list(SCOPES)})]
Scopes = Annotated[list[Scope], Field(max_length=len(SCOPES), json_schema_extra=UNIQUE_SCHEMA), Unique]
PolicyPath = Annotated[str, Path(alias="policyId", description="The policy's id.")]


class _Condition(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class Equals(_Condition):
    """The claim is exactly this."""

    equals: Value


class In(_Condition):
    """The claim is one of these."""

    values: Annotated[list[Value], Field(alias="in", min_length=1, max_length=limits.CONDITION_VALUES_MAX)]


class Begins(_Condition):
    """The claim begins with this, and goes on. It ends with `/`, `:` or `@`, where a part of the value ends."""

    prefix: Prefix


def _kind(condition: object) -> str | None:
    """Which one it means to be, so that only that one's mistakes are named."""
    if isinstance(condition, _Condition):
        return next(iter(condition.model_dump()))
    return next(iter(condition)) if isinstance(condition, dict) and len(condition) == 1 else None


Condition = Annotated[
    Annotated[Equals, Tag("equals")] | Annotated[In, Tag("in")] | Annotated[Begins, Tag("prefix")],
    Discriminator(_kind, custom_error_type="condition", custom_error_message='must be one of {"equals": "…"}, {"in": ["…", "…"]} and {"prefix": "…/"}'),
]
Conditions = Annotated[
    dict[ClaimName, Condition],
    Field(
        max_length=limits.POLICY_CONDITIONS_MAX,
        description="What claims must be, by name; all must hold. A claim inside of an object is named by its path: `kubernetes.io/pod/name`.",
        examples=[{"environment": {"equals": "production"}}],
    ),
]


class TrustPolicyRequest(RequestBody):
    """Whose tokens to trust. Say who it is by `repository`, or by a condition on what cannot be taken over: a number, or `sub`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"provider": "github", "repository": "acme/screener", "branch": "main"}]})

    provider: ProviderName = Field(examples=["github"])
    issuer: Address | None = Field(None, description="Its `iss`. Needed for kubernetes and oidc; GitHub's and GitLab's own when absent.")
    audience: Address | None = Field(
        None, description="Its `aud`: `<issuer>/organizations/<organizationId>` when absent, and that with a path behind it otherwise."
    )
    repository: Repository | None = Field(None, description="Its numbers are recorded at first use and compared ever after.", examples=["acme/screener"])
    branch: Branch | None = Field(None, description="A branch, not a tag that is named like it.", examples=["main"])
    conditions: Conditions = Field(default_factory=dict)
    agent_id: Uuid | None = Field(None, description="As which agent such a token acts; without it, it registers one.")
    scopes: Scopes | None = Field(
        None,
        description="What its tokens may hold at most; all that the agent may when absent. Without agent: what the new agent may, "
        f"{' '.join(sorted(DEFAULT_SCOPES))} when absent.",
    )


class TrustPolicyResource(Resource):
    """A trust policy."""

    policy_id: Uuid
    organization_id: Uuid
    provider: ProviderName
    issuer: str
    audience: str = Field(description="What a token must have as its only `aud`.")
    repository: str | None
    branch: str | None
    conditions: dict[str, Any]
    agent_id: Uuid | None = Field(description="Null: a token by this policy registers one agent.")
    scopes: list[str] | None
    repository_id: str | None = Field(description="The repository's number, once it has been used.")
    repository_owner_id: str | None
    credential_id: Uuid | None = Field(description="What stands for the policy among the agent's credentials.")
    created_at: InstantOut
    updated_at: InstantOut


class OutsideTokenBody(RequestBody):
    """A token of another issuer."""

    token: Annotated[str, StringConstraints(min_length=1, max_length=limits.TOKEN_CHARACTERS_MAX)] = Field(examples=["eyJhbGciOiJSUzI1NiJ9.e30.AA"])


class Obstacle(Resource):
    """A claim that is not what a policy asks for."""

    claim: str
    expected: str
    received: str | None = Field(description="Null: the token has no such text.")


class Explanation(Resource):
    """What would become of a token."""

    accepted: bool
    reason: str | None = Field(description="What is wrong with the token itself, whatever the policies say; null when nothing is.")
    policy_id: Uuid | None = Field(description="The policy that accepts it, or else comes nearest; null when none names its issuer.")
    agent_id: Uuid | None
    stopped_by: list[Obstacle] = Field(description="What that policy asks for in vain.")


@router.post(
    "",
    status_code=201,
    operation_id="createTrustPolicy",
    **secured("policies:write", AgentNotFound, AgentNotActive, OrganizationNotActive, TooManyCredentials, TooManyPolicies, InvalidScopes, body=True),
)
async def create(request: Request, body: TrustPolicyRequest) -> TrustPolicyResource:
    """Trust somebody else's tokens. You can give away only what your own token holds."""
    instance = instance_of(request)
    own_audience = organization_audience(instance.settings.issuer, caller_of(request).organization_id)
    new = NewPolicy(
        provider=body.provider,
        issuer=_issuer(instance, body),
        audience=body.audience or own_audience,
        repository=body.repository,
        branch=body.branch,
        conditions={name: condition.model_dump() for name, condition in body.conditions.items()},
        agent_id=body.agent_id,
        scopes=None if body.scopes is None else frozenset(body.scopes),
    )
    require_sound(new, own_audience)
    return _shown(await write(request, actions.create_policy, new))


@router.get("", operation_id="listTrustPolicies", **secured("policies:read"))
async def list_(request: Request, parameters: Annotated[PageParameters, QueryParameter()]) -> Page[TrustPolicyResource]:
    """List the organization's trust policies, newest first."""
    page = await read(request, queries.list_policies, page_request(parameters.limit, parameters.page, parameters.cursor))
    data = [_shown(queries.to_policy(row)) for row in page.rows]
    return Page(data=data, page=page.page, limit=page.limit, total=page.total, next_cursor=page.next_cursor)


@router.get("/{policyId}", operation_id="getTrustPolicy", **secured("policies:read", PolicyNotFound))
async def get(request: Request, policy_id: PolicyPath) -> TrustPolicyResource:
    """Look up one trust policy."""
    return _shown(await read(request, queries.get_policy, policy_id))


@router.delete("/{policyId}", status_code=204, operation_id="deleteTrustPolicy", **secured("policies:write", PolicyNotFound))
async def delete(request: Request, policy_id: PolicyPath) -> Response:
    """Trust it no longer: the tokens that were issued by it die at once."""
    await write(request, actions.delete_policy, policy_id)
    return Response(status_code=204)


@router.post("/explain", operation_id="explainTrustPolicies", **secured("policies:read", body=True))
async def explain(request: Request, body: OutsideTokenBody) -> Explanation:
    """Say what would become of a token, and why. Nothing is issued, and the token is not used up."""
    found = await explaining.explain(instance_of(request), caller_of(request).organization_id, body.token)
    return Explanation.model_validate(found)


def _issuer(instance: Instance, body: TrustPolicyRequest) -> str:
    settings = instance.settings
    issuer = issuer_for(body.provider, body.issuer, github=settings.oidc.github_issuer, gitlab=settings.oidc.gitlab_issuer)
    if "?" in issuer or "#" in issuer or issuer == settings.issuer:
        raise InvalidFields([("issuer", "must be another server's, without query and fragment")])
    try:
        check_url(issuer, allow_loopback=settings.webhooks.allow_loopback, anywhere=issuer in settings.oidc.private_issuers)
    except ForbiddenUrl as error:
        raise InvalidAddress("issuer", str(error), error.reason) from error
    return issuer


def _shown(policy: Policy) -> TrustPolicyResource:
    values = {name: getattr(policy, name) for name in TrustPolicyResource.model_fields}
    return TrustPolicyResource(**values | {"scopes": None if policy.scopes is None else sorted(policy.scopes)})
