"""What a trust policy may say, and whether a token satisfies it. Pure.

Who somebody is, is decided by the claims of the issuer, never by how it spells `sub`; a repository is its number, not its name. A condition compares text with
text: equal, one of several, or beginning with a prefix that ends where a part of the value ends. There are no wildcards.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentidp.core import limits
from agentidp.core.errors import Conflict, Invalid, InvalidFields, NotFound
from agentidp.policies.providers import NO_TEXT, PROVIDERS, ProviderName, is_condition_allowed

# After one of these the next part of a name begins: a path's, a subject's, a workflow's ref. After a hyphen or a dot the same part may go on: `release-` is no boundary.
BOUNDARIES: Final = ("/", ":", "@")
REPOSITORY_PATTERN: Final = "^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$"
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_HARMLESS = "an event that runs no foreign code, or that a condition names"
_GITHUB: Final = "https://token.actions.githubusercontent.com"
_GITHUB_BY_NAME = re.compile(r"https://token\.actions\.[a-z0-9-]+\.ghe\.com", re.ASCII)  # an enterprise with data residency
_GITLAB: Final = "https://gitlab.com"


class PolicyNotFound(NotFound):
    code = "POLICY_NOT_FOUND"
    title = "There is no such trust policy in your organization."


class TooManyPolicies(Conflict):
    title = f"An organization may have {limits.TRUST_POLICIES_MAX} trust policies; delete one first."


class ExchangeRefused(Invalid):
    """A token from outside that is not exchanged. In OAuth's words `invalid_grant`; `code` says why."""

    oauth_error = "invalid_grant"
    title = "The token cannot be exchanged."
    is_failed_login = True
    shows_code = True

    def __init__(self, detail: str | None = None, *, shown_code: str | None = None, **options: Any) -> None:
        super().__init__(detail, **options)
        self.shown_code = shown_code or self.code


class PresentedTokenRefused(ExchangeRefused):
    """The same of a `subject_token` or an `actor_token`, for which RFC 8693 section 2.2.2 has another word."""

    oauth_error = "invalid_request"


class OutsideTokenInvalid(ExchangeRefused):
    status, code = 401, "OIDC_TOKEN_INVALID"
    title = "The token is not one that this server accepts."

    def __init__(self, detail: str | None = None, **options: Any) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}, **options)


class OutsideTokenReplayed(OutsideTokenInvalid):
    code = "OIDC_TOKEN_REPLAYED"
    title = "The token has been used before; each is good for one exchange. Ask its issuer for another."


class NoPolicyMatches(ExchangeRefused):
    status, code = 403, "OIDC_POLICY_NO_MATCH"
    title = "No trust policy of the organization accepts this token; POST /api/v1/oidc/trust-policies/explain says why."


@dataclass(frozen=True, slots=True)
class Policy:
    """A trust policy as stored. `conditions` as in the API. `agent_id` None: its tokens register one agent. Instants are milliseconds."""

    organization_id: str
    policy_id: str
    provider: ProviderName
    issuer: str
    audience: str
    repository: str | None
    branch: str | None
    conditions: Mapping[str, Mapping[str, Any]]
    agent_id: str | None
    scopes: frozenset[str] | None
    repository_id: str | None
    repository_owner_id: str | None
    credential_id: str | None
    credential_revision: int | None
    is_revoked: bool
    created_at: int
    updated_at: int

    def allowed_scopes(self, agent_scopes: frozenset[str]) -> frozenset[str]:
        """Of the agent's scopes, those that a token by this policy may hold."""
        return agent_scopes if self.scopes is None else agent_scopes & self.scopes


@dataclass(frozen=True, slots=True)
class NewPolicy:
    """What somebody wants to trust."""

    provider: ProviderName
    issuer: str
    audience: str
    repository: str | None
    branch: str | None
    conditions: Mapping[str, Mapping[str, Any]]
    agent_id: str | None
    scopes: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a policy asks of a token. `received` None: the token has no such text."""

    claim: str
    expected: str
    received: str | None
    is_met: bool


def issuer_for(provider: ProviderName, given: str | None, *, github: str, gitlab: str) -> str:
    """The issuer that a policy means; without one GitHub's and GitLab's are the instance's to name. An enterprise may have one of its own below GitHub's.

    Whatever is known to be GitHub's or GitLab's is held to what their tokens mean. Raises InvalidFields.
    """
    own = {"github": github, "gitlab": gitlab}.get(provider)
    issuer = given if given is not None else own
    if issuer is None:
        raise InvalidFields([("issuer", f"must be given for {provider}")])
    is_github = _is_github(issuer, github)
    if provider == "github" and not is_github:
        raise InvalidFields([("issuer", f"must be {github}, or that of an enterprise below it, or {_GITHUB}")])
    if (provider != "github" and is_github) or (provider in {"kubernetes", "oidc"} and issuer.rstrip("/") in {gitlab, _GITLAB}):
        raise InvalidFields([("issuer", f"has a provider of its own: choose {'github' if is_github else 'gitlab'}")])
    return issuer


def _is_github(issuer: str, configured: str) -> bool:
    for known in (configured, _GITHUB):
        enterprise = issuer.removeprefix(f"{known}/")
        if issuer == known or (enterprise != issuer and enterprise and "/" not in enterprise):
            return True
    return _GITHUB_BY_NAME.fullmatch(issuer) is not None


def organization_audience(issuer: str, organization_id: str) -> str:
    """What a token for this organization is addressed to: no other tenant's policies are ever asked about it."""
    return f"{issuer}/organizations/{organization_id}"


def organization_of(audience: str, issuer: str) -> str | None:
    """Whose organization an audience names; None when it is none of this server's. The id may be any text."""
    prefix = organization_audience(issuer, "")
    return audience.removeprefix(prefix).partition("/")[0] if audience.startswith(prefix) else None


def require_sound(new: NewPolicy, own_audience: str) -> None:
    """Raises InvalidFields for a policy that would trust more than anybody means, or nothing."""
    provider, wrong = PROVIDERS[new.provider], list[tuple[str, str]]()
    if new.audience != own_audience and not (new.audience.startswith(f"{own_audience}/") and len(new.audience) > len(own_audience) + 1):
        wrong.append(("audience", f"must be {own_audience}, or begin with that and a slash: it names the organization"))
    if provider.repository is None:
        wrong += [(field, f"means nothing to {new.provider}") for field, value in (("repository", new.repository), ("branch", new.branch)) if value is not None]
    elif new.branch is not None and new.repository is None:
        wrong.append(("branch", "is a branch of a repository: name it"))
    if new.branch is not None and new.branch.startswith("refs/"):
        wrong.append(("branch", "is the name alone: main, not refs/heads/main"))
    if len(new.conditions) > limits.POLICY_CONDITIONS_MAX:
        wrong.append(("conditions", f"may be at most {limits.POLICY_CONDITIONS_MAX}"))
    if len(json.dumps(new.conditions)) > limits.POLICY_CONDITIONS_BYTES_MAX:
        wrong.append(("conditions", f"may be at most {limits.POLICY_CONDITIONS_BYTES_MAX} characters in all"))
    for claim, condition in new.conditions.items():
        if (reason := _wrong_with(new, claim, condition)) is not None:
            wrong.append((f"conditions.{claim[: limits.CLAIM_NAME_CHARACTERS_MAX]}", reason))
    fixed = {claim for claim, condition in new.conditions.items() if "prefix" not in condition or claim == "sub"}
    if new.repository is None and not fixed & provider.anchors:
        needed = " or ".join(f"conditions.{claim}" for claim in sorted(provider.anchors))
        wrong.append(("conditions", f"must say who is trusted: {'repository, or ' if provider.repository else ''}{needed}"))
    if wrong:
        raise InvalidFields(wrong)


def _wrong_with(new: NewPolicy, claim: str, condition: Mapping[str, Any]) -> str | None:
    provider = PROVIDERS[new.provider]
    if not is_condition_allowed(provider, claim):
        return f"is not a claim of {new.provider} that a condition can be about; the reference lists those that are (docs/reference/claims.md)"
    if new.branch is not None and claim in dict(provider.branch):
        return "is said by branch already"
    if len(condition) != 1:
        return "must be exactly one of equals, in and prefix"
    (kind, operand), values = next(iter(condition.items())), list[str]()
    values = operand if isinstance(operand, list) else [operand]
    if any("*" in value for value in values):
        return "there are no wildcards: use prefix, or leave the condition out"
    if kind == "prefix":
        if not values[0].endswith(BOUNDARIES):
            return f"a prefix must end with {' or '.join(BOUNDARIES)}: otherwise names that only begin alike are trusted, too"
        if values[0] in provider.too_wide or values[0].endswith("://") or not any(char.isalnum() for char in values[0]):
            return "this prefix is everybody's"
    if claim in (provider.repository_ids or ()) and not all(map(_NUMBER.fullmatch, values)):
        return "is a number"
    if provider.event == claim and provider.events_refused & set(values):
        return "this event runs foreign code with the repository's rights; it is never accepted"
    partner = (provider.partners or {}).get(claim)
    if partner is not None and partner not in new.conditions and new.branch is None:
        return f"needs a condition on {partner} beside it"
    return None


def checks(policy: Policy, claims: Mapping[str, str], audience: str) -> Iterator[Check]:
    """Everything that the policy asks of a token of its issuer; the token satisfies it when all are met. `claims` as `texts_of` gives them."""
    provider, conditions = PROVIDERS[policy.provider], policy.conditions
    yield Check("aud", policy.audience, audience, is_met=policy.audience == audience)
    if policy.is_revoked:
        yield Check("policy", "in force", "its credential is revoked", is_met=False)
    for claim in (*provider.required, *(("jti",) if provider.has_token_id else ())):
        received = claims.get(claim)
        is_text = received not in {None, NO_TEXT} and (received != "" or claim in provider.may_be_empty)
        yield Check(claim, "text", received, is_met=is_text)
    if policy.provider == "kubernetes":
        subject = f"system:serviceaccount:{claims.get('kubernetes.io/namespace')}:{claims.get('kubernetes.io/serviceaccount/name')}"
        yield _equal(claims, "sub", subject)
    if provider.repository is not None and policy.repository is not None:
        yield _equal(claims, provider.repository, policy.repository)
    if provider.repository_ids is not None:
        for claim, recorded in zip(provider.repository_ids, (policy.repository_id, policy.repository_owner_id), strict=True):
            if recorded is not None:
                yield _equal(claims, claim, recorded)
            else:
                received = claims.get(claim)
                yield Check(claim, "a number", received, is_met=received is not None and _NUMBER.fullmatch(received) is not None)
    if policy.branch is not None:
        for claim, form in provider.branch:
            if claim != provider.absent_on_branch or claim in claims:
                yield _equal(claims, claim, form.replace("{}", policy.branch))
    if provider.event is not None:
        yield _event(claims, provider.event, provider.events_to_name, provider.events_refused, conditions)
    if provider.workflow is not None and provider.workflow in claims and provider.workflow not in conditions:
        own = f"{claims.get(provider.repository or '', '')}/"
        yield Check(
            provider.workflow,
            f"a workflow of the repository itself, or one that a condition names: {own}…",
            claims[provider.workflow],
            is_met=claims[provider.workflow].startswith(own),
        )
    for claim, condition in conditions.items():
        yield _condition(claims, claim, condition)


def _equal(claims: Mapping[str, str], claim: str, expected: str) -> Check:
    return Check(claim, expected, claims.get(claim), is_met=claims.get(claim) == expected)


def _event(claims: Mapping[str, str], claim: str, to_name: frozenset[str], refused: frozenset[str], conditions: Mapping[str, Mapping[str, Any]]) -> Check:
    received, condition = claims.get(claim), conditions.get(claim, {})
    is_named = received is not None and (received == condition.get("equals") or received in condition.get("in", ()))
    is_met = received not in {None, NO_TEXT, "", *refused} and (is_named or received not in to_name)
    expected = "another event: this one runs foreign code with the repository's rights" if received in refused else _HARMLESS
    return Check(claim, expected, received, is_met=is_met)


def _condition(claims: Mapping[str, str], claim: str, condition: Mapping[str, Any]) -> Check:
    received, (kind, operand) = claims.get(claim), next(iter(condition.items()))
    match kind:
        case "equals":
            return Check(claim, operand, received, is_met=received == operand)
        case "in":
            return Check(claim, f"one of {', '.join(operand)}", received, is_met=received in operand)
        case _:
            return Check(claim, f"{operand}…", received, is_met=received is not None and received.startswith(operand) and received != operand)


def is_satisfied(policy: Policy, claims: Mapping[str, str], audience: str) -> bool:
    return all(check.is_met for check in checks(policy, claims, audience))


def numbers_to_record(policy: Policy, claims: Mapping[str, str]) -> tuple[str, ...]:
    """The numbers of the repository and its owner that are still to be recorded, at the first use of a policy that names it; `claims` satisfy the policy."""
    named = PROVIDERS[policy.provider].repository_ids if policy.repository is not None and policy.repository_id is None else None
    return tuple(claims[claim] for claim in named or ())


def choose(matching: Sequence[Policy], agent_id: str | None) -> Policy:
    """The policy by which a token is exchanged, of those that it satisfies. Raises NoPolicyMatches, also when they do not agree on what it is good for."""
    found = [policy for policy in matching if agent_id is None or policy.agent_id == agent_id]
    if not found:
        raise NoPolicyMatches if not matching else NoPolicyMatches("No trust policy accepts this token for that agent.")
    if len({policy.agent_id for policy in found}) > 1:
        raise NoPolicyMatches("More than one trust policy accepts this token, and they lead to different agents; say which agent, or make them stricter.")
    if len({policy.scopes for policy in found}) > 1:
        raise NoPolicyMatches(
            "More than one trust policy accepts this token, and they give different scopes to the same agent; delete one, or make them stricter."
        )
    return found[0]
