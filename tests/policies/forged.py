"""The forge table: tokens as GitHub, GitLab, a cluster and others really sign them, each wrong in one way; and the good ones beside them.

`make docs` writes it as docs/forged-tokens.md, with the answers that test_forgeries.py asserts.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.auth.forgery import b64, forge, forge_hmac, other_last_character
from tests.fakes.fake_issuers import FakeIssuer, IssuerKey
from tests.reference import table

PAGE = Path(__file__).parents[2] / "docs" / "forged-tokens.md"
NO_MATCH, INVALID = (403, "OIDC_POLICY_NO_MATCH"), (401, "OIDC_TOKEN_INVALID")
MAIN = {"repository": "acme/screener", "branch": "main", "conditions": {"environment": {"equals": "production"}}}
REPOSITORY: dict[str, Any] = {"repository": "acme/screener"}
CLUSTER = {"repository": None, "conditions": {"sub": {"equals": "system:serviceaccount:agents:screener"}}}
WORKFLOW = "acme/screener/.github/workflows/deploy.yml@refs/heads/main"


@dataclass(frozen=True)
class Case:
    """Changed claims (`...`: missing), and the claim by which they are stopped; None: accepted."""

    provider: str
    stopped_by: str | None
    claims: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=lambda: MAIN)


def github(stopped_by: str | None, policy: dict[str, Any] | None = None, /, **claims: Any) -> Case:
    return Case("github", stopped_by, claims, policy or MAIN)


def conditions(**named: Any) -> dict[str, Any]:
    return REPOSITORY | {"conditions": named}


GITHUB = {
    "as it is": github(None),
    "the classic subject": github(None, sub="repo:acme/screener:ref:refs/heads/main"),
    "the numbered subject": github(None, sub="repo:acme@65/screener@74:ref:refs/heads/main"),
    "a subject of the environment": github(None, sub="repo:acme@65/screener@74:environment:production"),
    "a subject of its own making": github(None, sub="job_workflow_ref:x"),
    "without ref_type": github(None, ref_type=...),
    "one audience in a list": Case("github", None, {"aud": ["{audience}"]}),
    "another repository": github(
        "repository", repository="acme/other", repository_id="75", job_workflow_ref="acme/other/.github/workflows/x.yml@refs/heads/main"
    ),
    "a squatted subject": github(
        "repository", repository="evil/screener", repository_id="75", repository_owner="evil", repository_owner_id="66", job_workflow_ref=...
    ),
    "a fork": github(
        "repository", repository="mallory/screener", repository_id="99", repository_owner="mallory", repository_owner_id="13", job_workflow_ref=...
    ),
    "renamed": github("repository", repository="acme/screener2", job_workflow_ref="acme/screener2/.github/workflows/x.yml@refs/heads/main"),
    "a repository in capitals": github("repository", repository="Acme/Screener", job_workflow_ref=...),
    "re-created under its name": github("repository_id", repository_id="7400"),
    "a re-registered owner": github("repository_owner_id", repository_id="7400", repository_owner_id="6500"),
    "another branch": github("ref", ref="refs/heads/feature"),
    "a branch below": github("ref", ref="refs/heads/main/x"),
    "a tag named like the branch": github("ref", ref="refs/tags/main", ref_type="tag"),
    "a tag whose ref says branch": github("ref_type", ref_type="tag"),
    "the bare name of the branch": github("ref", ref="main"),
    "a merge ref": github("ref", ref="refs/pull/1/merge"),
    "another environment": github("environment", environment="staging"),
    "no environment": github("environment", environment=...),
    "a pull request": github("event_name", REPOSITORY, event_name="pull_request", ref="refs/pull/1/merge"),
    "a review": github("event_name", REPOSITORY, event_name="pull_request_review"),
    "a pull request that is named": github(None, conditions(event_name={"equals": "pull_request"}), event_name="pull_request"),
    "one of several events that are named": github(None, conditions(event_name={"in": ["push", "pull_request"]}), event_name="pull_request"),
    "an event that is not named": github("event_name", conditions(event_name={"equals": "pull_request"}), event_name="push"),
    "pull_request_target": github("event_name", REPOSITORY, event_name="pull_request_target"),
    "a foreign reusable workflow": github("job_workflow_ref", REPOSITORY, job_workflow_ref="evil/flows/.github/workflows/x.yml@refs/heads/main"),
    "a workflow of a repository with a longer name": github("job_workflow_ref", REPOSITORY, job_workflow_ref="acme/screener-evil/x.yml@refs/heads/main"),
    "a reusable workflow that is named": github(
        None, conditions(job_workflow_ref={"prefix": "acme/flows/.github/workflows/x.yml@"}), job_workflow_ref="acme/flows/.github/workflows/x.yml@refs/tags/v1"
    ),
    "another one than is named": github("job_workflow_ref", conditions(job_workflow_ref={"equals": WORKFLOW + "x"})),
    "a self-hosted runner": github("runner_environment", conditions(runner_environment={"equals": "github-hosted"}), runner_environment="self-hosted"),
    "exactly the prefix": github("ref", conditions(ref={"prefix": "refs/heads/release/"}), ref="refs/heads/release/"),
    "behind the prefix": github(None, conditions(ref={"prefix": "refs/heads/release/"}), ref="refs/heads/release/1"),
    "beside the prefix": github("ref", conditions(ref={"prefix": "refs/heads/release/"}), ref="refs/heads/release-1"),
    "any repository of the owner": github(
        None, {"repository": None, "conditions": {"repository_owner_id": {"equals": "65"}}}, repository="acme/other", job_workflow_ref=...
    ),
    "another owner of that name": github(
        "repository_owner_id", {"repository": None, "conditions": {"repository_owner_id": {"equals": "65"}}}, repository_owner_id="66"
    ),
    **{
        f"{claim} is {value!r}": github(claim, REPOSITORY, **{claim: value})
        for claim in ("repository", "repository_id", "repository_owner", "repository_owner_id", "ref", "event_name")
        for value in (..., None, 1, True, ["acme/screener"], {}, "")
        if (claim, value) != ("ref", "")
    },
    "no ref, as of a deployment that names a commit": github(None, conditions(environment={"equals": "production"}), ref="", event_name="deployment"),
    "no ref, where a branch is wanted": github("ref", ref="", event_name="deployment"),
    **{f"job_workflow_ref is {value!r}": github("job_workflow_ref", REPOSITORY, job_workflow_ref=value) for value in (None, 1, ["evil/x"], {}, "")},
    **{f"ref_type is {value!r}": github("ref_type", ref_type=value) for value in (None, 1, ["branch"], "")},
    "a foreign reusable workflow, where another claim is wanted": github(
        "job_workflow_ref", job_workflow_ref="evil/flows/.github/workflows/x.yml@refs/heads/main"
    ),
    "none of several values": github("environment", conditions(environment={"in": ["staging", "prod"]})),
    "the beginning of one of several values": github("environment", conditions(environment={"in": ["production-eu", "prod"]})),
    "one of several values": github(None, conditions(environment={"in": ["staging", "production"]})),
    "a value in capitals": github("environment", environment="Production"),
    "a review's comment": github("event_name", REPOSITORY, event_name="pull_request_review_comment"),
    **{f"a number that is {value!r}": github("repository_id", REPOSITORY, repository_id=value) for value in ("74x", "-1", " 74", "\u0667", "9" * 21)},
}
GITLAB = {
    "as it is": Case("gitlab", None),
    "another project": Case("gitlab", "project_path", {"project_path": "acme/other"}),
    "a project in a group below": Case("gitlab", "project_path", {"project_path": "acme/screener/x"}),
    "a re-created project": Case("gitlab", "project_id", {"project_id": "29"}),
    "a re-registered namespace": Case("gitlab", "namespace_id", {"namespace_id": "10"}),
    "a tag named like the branch": Case("gitlab", "ref_type", {"ref_type": "tag"}),
    "another branch": Case("gitlab", "ref", {"ref": "feature"}),
    "no ref_type": Case("gitlab", "ref_type", {"ref_type": ...}),
    "a merge request": Case("gitlab", "pipeline_source", {"pipeline_source": "merge_request_event"}),
    "a merge request that is named": Case(
        "gitlab", None, {"pipeline_source": "merge_request_event"}, REPOSITORY | {"conditions": {"pipeline_source": {"equals": "merge_request_event"}}}
    ),
    "a pull request of elsewhere": Case("gitlab", "pipeline_source", {"pipeline_source": "external_pull_request_event"}),
    "a child pipeline, whose parent may be a merge request's": Case("gitlab", "pipeline_source", {"pipeline_source": "parent_pipeline"}),
    "no source": Case("gitlab", "pipeline_source", {"pipeline_source": ...}),
    "a project's number as a number": Case("gitlab", "project_id", {"project_id": 28}),
}
KUBERNETES = {
    "as it is": Case("kubernetes", None),
    "another service account": Case("kubernetes", "sub", {"sub": "system:serviceaccount:agents:other"}),
    "another namespace": Case("kubernetes", "sub", {"sub": "system:serviceaccount:other:screener"}),
    "a name that goes on": Case("kubernetes", "sub", {"sub": "system:serviceaccount:agents:screener2"}),
    "a subject that the cluster's own claim denies": Case(
        "kubernetes", "sub", {"kubernetes.io": {"namespace": "agents", "serviceaccount": {"name": "other", "uid": "1"}}}
    ),
    "no claim of the cluster": Case("kubernetes", "kubernetes.io/namespace", {"kubernetes.io": ...}),
    "a claim of the cluster that is text": Case("kubernetes", "kubernetes.io/namespace", {"kubernetes.io": "agents"}),
    "one in flat names": Case(
        "kubernetes", "kubernetes.io/namespace", {"kubernetes.io": ..., "kubernetes.io/namespace": "agents", "kubernetes.io/serviceaccount/name": "screener"}
    ),
    "a legacy token": Case(
        "kubernetes", "kubernetes.io/serviceaccount/uid", {"kubernetes.io": {"namespace": "agents", "serviceaccount": {"name": "screener"}}}
    ),
    "without jti, as clusters were": Case("kubernetes", None, {"jti": ...}),
    "a whole namespace": Case("kubernetes", None, {}, {"repository": None, "conditions": {"sub": {"prefix": "system:serviceaccount:agents:"}}}),
    "a namespace with a longer name": Case(
        "kubernetes",
        "sub",
        {"sub": "system:serviceaccount:agents2:screener", "kubernetes.io": {"namespace": "agents2", "serviceaccount": {"name": "screener", "uid": "1"}}},
        {"repository": None, "conditions": {"sub": {"prefix": "system:serviceaccount:agents:"}}},
    ),
}
OIDC = {
    "as it is": Case("oidc", None),
    "another subject": Case("oidc", "sub", {"sub": "somebody else"}),
    "a claim that is a list": Case(
        "oidc", "groups", {"groups": ["admins"]}, {"repository": None, "conditions": {"sub": {"equals": "somebody"}, "groups": {"equals": "admins"}}}
    ),
}
CLAIMS = {
    f"{provider}: {name}": case
    for provider, table in (("github", GITHUB), ("gitlab", GITLAB), ("kubernetes", KUBERNETES), ("oidc", OIDC))
    for name, case in table.items()
}

# What is wrong with the token itself, whatever a policy says. `{audience}` stands for the right one.
TOKENS: dict[str, dict[str, Any]] = {
    **{
        f"iss is {value!r:.30}": {"iss": value}
        for value in (..., None, "", 1, [], "https://token.actions.githubusercontent.com.evil.example", "https://example.com")
    },
    "iss with a slash": {"iss": "{issuer}/"},
    "iss in a list": {"iss": ["{issuer}"]},
    **{
        f"aud is {value!r:.40}": {"aud": value}
        for value in (..., None, "", 1, [], {}, [None], "https://github.com/acme", ["{audience}", "https://example.com"], ["{audience}"] * 2)
    },
    "aud of this server": {"aud": "{server}"},
    "aud of the token endpoint": {"aud": "{server}/api/v1/token"},
    "aud of no organization": {"aud": "{server}/organizations/"},
    "aud of an organization that is none": {"aud": "{server}/organizations/x"},
    "aud in capitals": {"aud": "{AUDIENCE}"},
    **{f"sub is {value!r}": {"sub": value} for value in (..., None, "", 1, ["a"], {})},
    **{f"jti is {value!r}": {"jti": value} for value in (..., None, "", 1, ["a"], {})},
    **{
        f"{name} is {value!r:.20}": {name: value}
        for name in ("exp", "iat", "nbf")
        for value in (*((...,) if name != "nbf" else ()), None, "1", True, [], {}, 10**40)
    },
    **{f"{name} is text": {name: str} for name in ("exp", "iat", "nbf")},
    **{f"{name} has a fraction": {name: lambda now: now + 0.5} for name in ("exp", "iat", "nbf")},
    "expired": {"iat": lambda now: now - 600, "nbf": lambda now: now - 600, "exp": lambda now: now - 300},
    "expired now": {"exp": lambda now: now},
    "from the future": {"iat": lambda now: now + 3000, "nbf": lambda now: now + 3000, "exp": lambda now: now + 4000},
    "not yet": {"nbf": lambda now: now + 3000},
    "lives for ever": {"exp": lambda now: now + 10**9},
    "lives for a day and more": {"exp": lambda now: now + 86_400 + 600},
    "ended before it began": {"iat": lambda now: now + 30, "exp": lambda now: now + 20},
}

Maker = Callable[[FakeIssuer, str], str]
FOREIGN, CURVE = IssuerKey(), ec.generate_private_key(ec.SECP256R1())
OUTSIDE = "https://keys.attacker.example/jwks.json"


def head(**changed: Any) -> Maker:
    def make(issuer: FakeIssuer, audience: str) -> str:
        header = {name: value for name, value in (issuer.header() | changed).items() if value is not ...}
        return issuer.key.sign(header, issuer.claims(audience))

    return make


def hmac(form: Callable[[FakeIssuer], bytes]) -> Maker:
    return lambda issuer, audience: forge_hmac(form(issuer), issuer.header() | {"alg": "HS256"}, issuer.claims(audience))


def form(change: Callable[[str], str]) -> Maker:
    return lambda issuer, audience: change(issuer.token(audience))


def pem(issuer: FakeIssuer) -> bytes:
    return issuer.key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def der(issuer: FakeIssuer) -> bytes:
    return issuer.key.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


BEARERS: dict[str, Maker] = {
    **{f"alg {name!r}, unsigned": form(lambda token, name=name: f"{b64(json.dumps({'alg': name}))}.{token.split('.')[1]}.") for name in ("none", "None", "")},
    **{
        f"alg {name!r} by its key": head(alg=name) for name in ("none", "RS384", "RS512", "PS256", "HS256", "ES256", "rs256", "RS256 ", None, 1, ["RS256"], ...)
    },
    "HS256 with its key in PEM": hmac(pem),
    "HS256 with its key in DER": hmac(der),
    "HS256 with its key as JSON": hmac(lambda issuer: json.dumps(issuer.key.jwk).encode()),
    "HS256 with the key id": hmac(lambda issuer: issuer.key.key_id.encode()),
    "HS256 with nothing": hmac(lambda _: b""),
    "a foreign key with its kid": lambda issuer, audience: FOREIGN.sign(issuer.header(), issuer.claims(audience)),
    "a foreign key of another kind": lambda issuer, audience: forge(CURVE, issuer.header() | {"alg": "ES256"}, issuer.claims(audience)),
    "an embedded key": lambda issuer, audience: FOREIGN.sign(issuer.header() | {"jwk": FOREIGN.jwk}, issuer.claims(audience)),
    "its own key embedded": lambda issuer, audience: issuer.key.sign(issuer.header() | {"jwk": issuer.key.jwk}, issuer.claims(audience)),
    **{f"{name} by its key": head(**{name: OUTSIDE}) for name in ("jku", "x5u")},
    "x5c by its key": head(x5c=["MIIB"]),
    **{f"kid is {value!r:.30}": head(kid=value) for value in (..., "", "../../etc/passwd", "' OR '1'='1", "\x00", "x" * 1000, 0, None, [], {"a": "b"})},
    **{f"crit {value!r}": head(crit=value) for value in ([], ["exp"], ["b64"], "exp", None)},
    "b64 false": head(b64=False),
    "zip": head(zip="DEF"),
    "enc": head(enc="A128GCM"),
    **{f"typ {value!r}": head(typ=value) for value in ("at+jwt", "dpop+jwt", "logout+jwt", "secevent+jwt", "", "JWT ", 1, ["JWT"], {"a": 1})},
    "a header name twice": lambda issuer, audience: issuer.key.sign(json.dumps(issuer.header())[:-1] + ', "alg": "none"}', issuer.claims(audience)),
    "a header that is a list": lambda issuer, audience: issuer.key.sign("[]", issuer.claims(audience)),
    "a header of 3 KiB": head(note="x" * 3000),
    "a deep header": lambda issuer, audience: issuer.key.sign(
        json.dumps(issuer.header())[:-1] + ', "x": ' + "[" * 500 + "]" * 500 + "}", issuer.claims(audience)
    ),
    "a claim twice": lambda issuer, audience: issuer.key.sign(issuer.header(), json.dumps(issuer.claims(audience))[:-1] + ', "repository": "acme/screener"}'),
    "a claim twice, once escaped": lambda issuer, audience: issuer.key.sign(issuer.header(), json.dumps(issuer.claims(audience))[:-1] + ', "s\\u0075b": "x"}'),
    "claims that are a list": lambda issuer, audience: issuer.key.sign(issuer.header(), [issuer.claims(audience)]),
    "claims with a byte order mark": lambda issuer, audience: issuer.key.sign(issuer.header(), b"\xef\xbb\xbf" + json.dumps(issuer.claims(audience)).encode()),
    "claims with garbage behind": lambda issuer, audience: issuer.key.sign(issuer.header(), json.dumps(issuer.claims(audience)) + "x"),
    "a claim that is NaN": lambda issuer, audience: issuer.key.sign(issuer.header(), json.dumps(issuer.claims(audience) | {"x": float("nan")})),
    "a lone surrogate": lambda issuer, audience: issuer.key.sign(issuer.header(), json.dumps(issuer.claims(audience))[:-1] + ', "x": "\\ud800"}'),
    "deep claims": lambda issuer, audience: issuer.key.sign(issuer.header(), issuer.claims(audience) | {"x": json.loads("[" * 100 + "]" * 100)}),
    "two parts": form(lambda token: token.rpartition(".")[0]),
    "four parts": form(lambda token: f"{token}.AAAA"),
    "no signature": form(lambda token: token.rpartition(".")[0] + "."),
    "padding on the header": form(lambda token: token.replace(".", "=.", 1)),
    "padding on the signature": form(lambda token: token + "=="),
    "other bits in the last character": form(lambda token: token.rpartition(".")[0] + "." + other_last_character(token.rpartition(".")[2])),
    "one character short": form(lambda token: token[:-1]),
    "one character more": form(lambda token: token + "A"),
    "a signature of zeros": form(lambda token: token.rpartition(".")[0] + "." + b64(bytes(256))),
    "a space inside": form(lambda token: token.replace(".", " .", 1)),
    "twice with a comma": form(lambda token: f"{token},{token}"),
    "JSON serialization": form(lambda token: json.dumps(dict(zip(("protected", "payload", "signature"), token.split("."), strict=True)))),
    "one word": form(lambda _: "x"),
}
ACCEPTED: dict[str, Maker] = {
    "as it is": head(),
    "without typ": head(typ=...),
    "typ in lower case": head(typ="jwt"),
    "another thumbprint": head(**{"x5t#S256": "AAAA"}),
}


def page() -> str:
    """The whole table, as Markdown."""
    decided = [
        [case.provider, _said(name.partition(": ")[2]), f"`{case.stopped_by}`" if case.stopped_by else "–", _told(case)] for name, case in CLAIMS.items()
    ]
    fixed = [[_said(name), "200"] for name in ACCEPTED] + [[_said(name), _refusal(INVALID)] for name in (*TOKENS, *BEARERS)]
    refused = sum(row[-1] != "200" for row in (*decided, *fixed))
    return (
        "<!-- Written by `make docs`; `make test` compares. -->\n\n# Forged tokens\n\n"
        "Each row is a token that is presented to a running server, on SQLite and on PostgreSQL. It is signed by a stand-in for the issuer with a key that it\n"
        "publishes, unless the row says otherwise, and right but for what the row names. The answer is that of `POST /api/v1/oidc/token`; at\n"
        "`POST /api/v1/token` the same tokens get 400 with the same code: `invalid_grant` as `assertion`, `invalid_request` as `subject_token`. *Stopped by* is a claim that\n"
        "`POST /api/v1/oidc/trust-policies/explain` names. The tables are in `tests/policies/forged.py`, the tests in `tests/policies/test_forgeries.py`.\n\n"
        f"{len(decided) + len(fixed) - refused} tokens are accepted, {refused} are refused.\n\n## What a policy decides\n\n"
        + table(["Issuer", "Token", "Stopped by", "Answer"], decided)
        + "\n## What no policy can allow\n\nTokens of the stand-in for GitHub, for a policy that trusts its repository.\n\n"
        + table(["Token", "Answer"], fixed)
    )


def _said(name: str) -> str:
    return name.replace("Ellipsis", "missing")


def _told(case: Case) -> str:
    return "200" if case.stopped_by is None else _refusal(NO_MATCH)


def _refusal(answer: tuple[int, str]) -> str:
    return f"{answer[0]} `{answer[1]}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
