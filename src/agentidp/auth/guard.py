"""The guard in front of every operation: proves the caller, requires the scope, then lets the endpoint run; renders every refusal.

Order of the answers: 401, 429, 403, 415 and 413, 400, then the operation's own. A refusal is recorded in a unit of work of its own,
because the operation's was rolled back; when it cannot be recorded the answer is 503. RFC 6750, RFC 9449 section 7, RFC 9728 section 5.1.
"""

import functools
import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import parse_qsl

import sqlalchemy as sa
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from agentidp.auth import throttle
from agentidp.auth.authority import is_alive
from agentidp.auth.dpop import InvalidProof, NonceNeeded, Proof, invalid_proof, read_proof
from agentidp.auth.instance import Instance, instance_of
from agentidp.auth.jws import ALGORITHMS, InvalidToken
from agentidp.auth.jwt import NoOrganization, VerifiedClaims, verify_access_token
from agentidp.auth.registration import registration_of
from agentidp.auth.scopes import REGISTRATION_SCOPE
from agentidp.core import limits
from agentidp.core.caller import AuditEntry, Caller, Origin
from agentidp.core.errors import Forbidden, Invalid, InvalidFields, Problem, Unauthenticated, UnsupportedMediaType
from agentidp.core.http import media_type, parse_json, read_body, render
from agentidp.db.schema import organizations
from agentidp.db.unit import Tx

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger(__name__)

PUBLIC: Final = "public"
ANY_TOKEN: Final = "any token"  # noqa: S105 - not a secret
_PRESENTED = re.compile(r"(bearer|dpop) +(.+)", re.IGNORECASE | re.ASCII)  # the form of the token itself is the pre-parser's business


class _WithoutOrganization(Unauthenticated):
    """The token is right in everything, but names no organization: 401, where the operation's specification does not ask for another answer."""


class _Unproven(Unauthenticated):
    oauth_error = InvalidProof.oauth_error


class _WithoutNonce(Unauthenticated):
    oauth_error = NonceNeeded.oauth_error
    is_failed_login = False


async def read(request: Request, query: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a query as the request's caller."""
    return await instance_of(request).database.read(query, caller_of(request), *args, **kwargs)


async def write(request: Request, action: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an action as the request's caller; durable when this returns."""
    return await instance_of(request).database.write(action, caller_of(request), *args, **kwargs)


def caller_of(request: Request) -> Caller:
    """The proven caller; before or without proof, nobody, on the operator's account."""
    caller: Caller | None = request.scope.get("agentidp.caller")
    return caller or Caller(instance_of(request).operator_organization_id, origin=origin(request))


def origin(request: Request) -> Origin:
    found: Origin = request.scope["agentidp.origin"]
    return found


async def authenticate(request: Request, scope: str, *, essential: bool = False, registers: bool = False) -> Caller:
    """Prove the bearer of an access token for this API, or the holder of its key, and require the scope (`ANY_TOKEN`: none in particular).

    An essential call is counted, but not refused when the day's calls are used up. Where an operation `registers`, a token that is good for
    nothing else will do, too. Raises Unauthenticated, RateLimited, TooManyCalls or Forbidden,
    each with the audit event that it leaves.
    """
    instance = instance_of(request)
    values = request.headers.getlist("authorization")
    match = _PRESENTED.fullmatch(values[0].strip(" ")) if len(values) == 1 else None
    if match is None:
        raise Unauthenticated(audit=[AuditEntry("auth.failed", "failure", metadata={"reason": "no bearer token"})], headers=challenge(instance))
    try:
        token = await verify_access_token(match[2], instance.keys, issuer=instance.settings.issuer, now=instance.clock())
    except InvalidToken as error:
        refusal = _bad_token(instance, str(error), None)
        if isinstance(error, NoOrganization) and instance.settings.issuer in error.audience:
            raise _WithoutOrganization(audit=refusal.audit, headers=refusal.headers) from error
        raise refusal from error
    if instance.settings.issuer not in token.audience:
        raise _bad_token(instance, "meant for another audience", token)
    caller = _caller(token, origin(request))
    throttle.present(request, token.token_id, is_signed=True)  # one that was revoked must not use up the rate of the agent that it was stolen from
    try:
        proof = _proof_of_possession(request, match[1].lower(), match[2], token)
        alive = await is_alive(instance, token, meter="apiCalls", essential=essential, admit=functools.partial(throttle.admit, request), proof=proof)
    except (InvalidProof, NonceNeeded) as error:
        kind = _Unproven if isinstance(error, InvalidProof) else _WithoutNonce
        audit = [replace(entry, organization_id=caller.organization_id, agent_id=caller.agent_id) for entry in error.audit]
        raise kind(error.detail, audit=audit, headers=challenge(instance, f'error="{error.oauth_error}"', scheme="DPoP")) from error
    if not alive:
        raise _bad_token(instance, "revoked, or the agent is not active", token)
    request.scope["agentidp.caller"] = caller
    request.scope["agentidp.token"] = token
    if token.is_registration:
        await throttle.admit_source(request)  # it is no client yet
    if not (token.is_registration and registers):
        require_scope(caller, scope)
    return caller


def _proof_of_possession(request: Request, scheme: str, presented: str, token: VerifiedClaims) -> Proof | None:
    """The proof that a token which is bound to a key needs: one of that key. Raises InvalidProof, NonceNeeded, Unauthenticated."""
    if scheme == "bearer" and token.key_thumbprint is None:
        return None
    if scheme == "bearer":
        raise _bad_token(
            instance_of(request), "bound to a key and presented without", token, "The token is bound to a key: present it with the scheme DPoP and a proof."
        )
    if token.key_thumbprint is None:
        raise _bad_token(instance_of(request), "not bound to a key", token, "The token is bound to no key: present it with the scheme Bearer.")
    proof = read_proof(request, presented)
    if proof is None:
        raise invalid_proof("missing")
    if proof.key_thumbprint != token.key_thumbprint:
        raise _bad_token(instance_of(request), "bound to another key", token)
    return proof


def require_scope(caller: Caller, scope: str) -> None:
    """Raises Forbidden unless the caller's token holds the scope."""
    if caller.registration is not None:
        denied = AuditEntry("access.denied", "failure", "policy", caller.registration.policy_id, metadata={"reason": "registers one agent, nothing else"})
        raise Forbidden("This token is for registering one agent, and for nothing else.", audit=[denied])
    if scope != ANY_TOKEN and scope not in caller.scopes:
        entry = AuditEntry("access.denied", "failure", metadata={"requiredScope": scope})
        raise Forbidden(f"This needs a token with scope {scope}.", scope=scope, audit=[entry])


def _caller(token: VerifiedClaims, origin: Origin) -> Caller:
    if token.is_registration:
        return Caller(token.organization_id, token_id=token.token_id, origin=origin, registration=registration_of(token))
    return Caller(token.organization_id, token.agent_id, token.scopes, token.credential_id, token.token_id, origin, is_delegated=token.is_delegated)


def _bad_token(instance: Instance, reason: str, token: VerifiedClaims | None, detail: str | None = None) -> Unauthenticated:
    """`reason` is for the audit trail. `detail`: what whoever really has the token is told."""
    known = {"organization_id": token.organization_id} | ({} if token.is_registration else {"agent_id": token.agent_id}) if token else {}
    entry = AuditEntry("auth.failed", "failure", metadata={"reason": reason}, **known)
    parameters = ('error="invalid_token"', 'error_description="The access token is not valid"')
    return Unauthenticated(detail, audit=[entry], headers=challenge(instance, *parameters, scheme=_scheme_of(token)))


def _scheme_of(token: VerifiedClaims | None) -> str:
    return "Bearer" if token is None or token.key_thumbprint is None else "DPoP"


def challenge(instance: Instance, *parameters: str, scheme: str = "Bearer") -> dict[str, str]:
    """How to present a token. `scheme`: DPoP for one that is bound to a key."""
    algorithms = (f'algs="{" ".join(ALGORITHMS)}"',) if scheme == "DPoP" else ()
    metadata = f'resource_metadata="{instance.settings.issuer}/.well-known/oauth-protected-resource"'
    return {"WWW-Authenticate": f"{scheme} " + ", ".join((*parameters, *algorithms, metadata))}


async def refuse(request: Request, problem: Problem, *, oauth: bool) -> Response:
    """Record the refusal if it carries an audit entry, then render it. Who fails too often to prove who it is gets another one."""
    headers = {}
    if problem.is_failed_login:
        problem = await throttle.count_failure(request) or problem
    if isinstance(problem, Forbidden):
        needed = (f'scope="{problem.scope}"',) if problem.scope else ()
        scheme = _scheme_of(request.scope.get("agentidp.token"))
        headers = challenge(instance_of(request), 'error="insufficient_scope"', *needed, scheme=scheme)
    elif isinstance(problem, Unauthenticated) and not problem.headers:  # found out in the unit of work
        headers = challenge(instance_of(request), 'error="invalid_token"')
    try:
        await _leave_trail(request, problem)
    except Problem as unavailable:
        return render(unavailable, oauth=oauth)
    return render(problem, oauth=oauth, headers=headers)


async def _leave_trail(request: Request, problem: Problem) -> None:
    """Write down what the refusal says about itself; of those at a limit, which come by the thousand, one a minute for each organization or source."""
    instance = instance_of(request)
    if isinstance(problem, throttle.RateLimited):
        instance.metrics.rate_limit_hits.labels(problem.kind).inc()
        reached = (problem.key, problem.kind)
    elif problem.plan_limit is not None:
        instance.metrics.limit_rejections.labels(problem.plan_limit).inc()
        reached = (problem.audit[0].organization_id or "", problem.plan_limit)
    else:
        await _record(request, problem.audit)
        return
    if not instance.limits_noted.is_due(reached, instance.clock()):
        return
    try:
        await _record(request, problem.audit)
    except Problem:
        instance.limits_noted.forget(reached)
        raise


async def _record(request: Request, entries: Sequence[AuditEntry]) -> None:
    """A token or a secret names the organization, and only a caller of it may write there; where that is gone, the event goes on the caller's account."""
    database, caller = instance_of(request).database, caller_of(request)
    for entry in entries:
        named = replace(caller, organization_id=entry.organization_id) if entry.organization_id is not None else None
        if named is None or not await database.write(_append_if_known, named, entry):
            await database.write(_append, caller, replace(entry, organization_id=None))


def _append(tx: Tx, entry: AuditEntry) -> None:
    tx.entries.append(entry)


def _append_if_known(tx: Tx, entry: AuditEntry) -> bool:
    """Whether the caller's organization is there to take it."""
    known = tx.one(sa.select(organizations.c.organization_id).where(organizations.c.organization_id == tx.caller.organization_id))
    if known:
        _append(tx, entry)
    return known is not None


def internal_error(request: Request, *, oauth: bool) -> Response:
    """Call it while handling the exception: its text goes to the log, the client gets the request id."""
    log.exception("unhandled error", extra={"request_id": origin(request).request_id, "path": request.url.path})  # noqa: LOG004 - callers are in their except block
    return render(Problem(details={"requestId": origin(request).request_id}), oauth=oauth)


class GuardedRoute(APIRoute):
    """A FastAPI route behind the guard. The scope is declared where the operation is, by `secured(…)` or `public(…)`."""

    speaks_oauth: ClassVar[bool] = False  # whether its refusals have the shape of RFC 6749

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        declared = self.openapi_extra or {}
        scope: str = declared["x-scope"]
        essential, is_limited = "x-essential" in declared, declared.get("x-rate-limit") == "source"
        registers = declared.get("x-scope-once") == REGISTRATION_SCOPE
        queries = _query_names(self.dependant)
        has_body = self.body_field is not None
        merge_patch = "PATCH" in (self.methods or ())

        async def guarded(request: Request) -> Response:
            request.scope["agentidp.route"] = self.path_format
            try:
                if scope != PUBLIC:
                    await authenticate(request, scope, essential=essential, registers=registers)
                elif is_limited:
                    await throttle.admit_source(request)
                if has_body:
                    await _load_json(request, merge_patch=merge_patch)
                _require_known_query(request, queries)
                return await handler(request)
            except Problem as problem:
                if "x-without-organization" in declared and isinstance(problem, _WithoutOrganization):
                    return await refuse(request, Invalid("organization_id is required in token.", audit=problem.audit), oauth=self.speaks_oauth)
                return await refuse(request, problem, oauth=self.speaks_oauth)
            except RequestValidationError as error:
                return await refuse(request, _invalid_fields(error), oauth=self.speaks_oauth)
            except Exception:  # noqa: BLE001 - the last resort: nothing of the error reaches the client
                return internal_error(request, oauth=self.speaks_oauth)

        return guarded


class OAuthJsonRoute(GuardedRoute):
    """An OAuth endpoint that takes JSON."""

    speaks_oauth = True


class OAuthRoute(APIRoute):
    """An endpoint that `app` serves ahead of the framework; FastAPI only documents it. `serve` is the whole of its stack."""

    async def serve(self, request: Request) -> Response:
        request.scope["agentidp.route"] = self.path_format
        try:
            response: Response = await self.endpoint(request)
        except Problem as problem:
            return await refuse(request, problem, oauth=True)
        except Exception:  # noqa: BLE001 - as above
            return internal_error(request, oauth=True)
        return response


def _query_names(dependant: Dependant) -> set[str]:
    """The query parameters that the operation knows, those of parameter models included."""
    names: set[str] = set()
    for field in dependant.query_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            names |= {info.alias or name for name, info in model.model_fields.items()}
        else:
            names.add(field.alias)
    return names.union(*(_query_names(child) for child in dependant.dependencies))


async def _load_json(request: Request, *, merge_patch: bool) -> None:
    """Put the strictly parsed body where the framework looks for it."""
    raw_body = await read_body(request)
    accepted = {"application/json", "application/merge-patch+json"} if merge_patch else {"application/json"}
    if (raw_body or request.headers.get("content-type")) and media_type(request) not in accepted:
        raise UnsupportedMediaType
    request._body = raw_body  # noqa: SLF001 - the framework's own cache of the body
    if raw_body:
        request._json = parse_json(raw_body)  # noqa: SLF001


def _require_known_query(request: Request, known: set[str]) -> None:
    raw = request.scope["query_string"]
    if not raw:
        return
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=limits.QUERY_PARAMETERS_MAX)
    except (ValueError, UnicodeError) as error:
        raise Invalid("The query is not valid UTF-8 in application/x-www-form-urlencoded.") from error
    names = [name for name, _ in pairs]
    wrong = [(name[:64], "is not a parameter of this operation") for name in names if name not in known]
    wrong += [(name, "is given more than once") for name in sorted({name for name in names if names.count(name) > 1})]
    wrong += [(name, "holds a NUL character") for name, value in pairs if "\x00" in value]
    if wrong:
        raise InvalidFields(wrong)


def _invalid_fields(error: RequestValidationError) -> InvalidFields:
    fields = []
    for row in error.errors():
        place = [str(part) for part in row["loc"] if part not in {"body", "query", "path", "header"}]
        place = [part for part, before in zip(place, ["", *place], strict=False) if part != before]  # one of several models is named as its field is
        fields.append((".".join(place)[:128] or "body", str(row["msg"]).removeprefix("Value error, ")))
    return InvalidFields(fields)
