"""What is known about each kind of issuer, as data: what its tokens hold, which claims say who somebody is, and which mean nothing by themselves. Pure.

GitHub: docs.github.com/actions/reference/security/oidc. GitLab: docs.gitlab.com/ci/secrets/id_token_authentication. Kubernetes: KEP-1205.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

ProviderName = Literal["github", "gitlab", "kubernetes", "oidc"]

# What verification has looked at already. `sub` of GitHub and GitLab is refused, too: its format is the repository's to choose, and changed for all on 2026-07-15.
VERIFIED: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti"})


@dataclass(frozen=True, slots=True)
class Provider:
    """One kind of issuer. Claims inside of an object are named by their path: `kubernetes.io/serviceaccount/name`."""

    known: frozenset[str] | None = None  # claims that a condition may name; None: any
    required: tuple[str, ...] = ("sub",)  # text that every token has
    may_be_empty: frozenset[str] = frozenset()  # of these
    has_token_id: bool = False  # every token has a `jti`
    anchors: frozenset[str] = frozenset({"sub"})  # a policy fixes one of these, or its repository
    partners: Mapping[str, str] | None = None  # a condition on the first says nothing without one on the second
    too_wide: frozenset[str] = frozenset()  # prefixes that everybody's claim has
    repository: str | None = None  # the claim with the repository's name
    repository_ids: tuple[str, str] | None = None  # its number and its owner's, which no rename and no new owner of a name changes
    branch: tuple[tuple[str, str], ...] = ()  # what holds on a branch; {} is its name
    absent_on_branch: str | None = None  # one of `branch` that older issuers leave out
    event: str | None = None  # the claim that says what set the job off
    events_to_name: frozenset[str] = frozenset()  # others' code may run: refused unless a condition names the event
    events_refused: frozenset[str] = frozenset()  # others' code runs with the repository's rights: always refused
    workflow: str | None = None  # the claim with the file that the job is written in: another repository's must be named


_GITHUB: Final = Provider(
    known=frozenset(
        [
            "actor",
            "actor_id",
            "base_ref",
            "check_run_id",
            "enterprise",
            "enterprise_id",
            "environment",
            "environment_node_id",
            "event_name",
            "head_ref",
            "job_workflow_ref",
            "job_workflow_sha",
            "ref",
            "ref_protected",
            "ref_type",
            "repository",
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "repository_visibility",
            "run_attempt",
            "run_id",
            "run_number",
            "runner_environment",
            "sha",
            "workflow",
            "workflow_ref",
            "workflow_sha",
        ]
    ),
    required=("sub", "repository", "repository_id", "repository_owner", "repository_owner_id", "ref", "event_name"),
    may_be_empty=frozenset({"ref"}),  # of a deployment that names a commit
    has_token_id=True,
    anchors=frozenset({"repository_id", "repository_owner_id"}),
    too_wide=frozenset({"refs/"}),
    repository="repository",
    repository_ids=("repository_id", "repository_owner_id"),
    branch=(("ref", "refs/heads/{}"), ("ref_type", "branch")),
    absent_on_branch="ref_type",
    event="event_name",
    events_to_name=frozenset({"pull_request", "pull_request_review", "pull_request_review_comment"}),
    events_refused=frozenset({"pull_request_target"}),
    workflow="job_workflow_ref",
)
_GITLAB: Final = Provider(
    known=frozenset(
        [
            "ci_config_ref_uri",
            "ci_config_sha",
            "deployment_tier",
            "environment",
            "environment_action",
            "environment_protected",
            "job_id",
            "job_source",
            "namespace_id",
            "namespace_path",
            "pipeline_id",
            "pipeline_source",
            "project_id",
            "project_path",
            "project_visibility",
            "ref",
            "ref_path",
            "ref_protected",
            "ref_type",
            "runner_environment",
            "sha",
            "user_access_level",
            "user_email",
            "user_id",
            "user_login",
        ]
    ),
    required=("sub", "project_path", "project_id", "namespace_id", "ref", "ref_type", "pipeline_source"),
    has_token_id=True,
    anchors=frozenset({"project_id", "namespace_id"}),
    partners={"ref": "ref_type"},  # a tag may be named like a branch
    too_wide=frozenset({"refs/"}),
    repository="project_path",
    repository_ids=("project_id", "namespace_id"),
    branch=(("ref", "{}"), ("ref_type", "branch")),
    event="pipeline_source",
    events_to_name=frozenset({"merge_request_event", "external_pull_request_event", "parent_pipeline"}),  # the parent may be one of the others
)
_KUBERNETES: Final = Provider(
    known=frozenset(
        {"sub"}
        | {f"kubernetes.io/{name}" for name in ("namespace", "serviceaccount/name", "serviceaccount/uid", "pod/name", "pod/uid", "node/name", "node/uid")}
    ),
    required=("sub", "kubernetes.io/namespace", "kubernetes.io/serviceaccount/name", "kubernetes.io/serviceaccount/uid"),
    too_wide=frozenset({"system:", "system:serviceaccount:"}),
)
NO_TEXT: Final = "\x00"  # no condition can name it, and no prefix begins with it
# What tells the parts of these apart is known only to their own providers, whose claims an issuer of any other kind may not have.
_OIDC: Final = Provider(too_wide=frozenset({"system:", "system:serviceaccount:", "repo:", "project_path:"}))
PROVIDERS: Final[Mapping[ProviderName, Provider]] = {"github": _GITHUB, "gitlab": _GITLAB, "kubernetes": _KUBERNETES, "oidc": _OIDC}


def is_condition_allowed(provider: Provider, claim: str) -> bool:
    """Whether a condition on that claim says something that is not looked at anyway."""
    return claim not in VERIFIED and (provider.known is None or claim in provider.known)


def by_path(name: ProviderName, claims: Mapping[str, Any]) -> dict[str, Any]:
    """The claims as conditions name them: those inside of Kubernetes' own object by their path, and none that is called as if it were there."""
    if name != "kubernetes":
        return dict(claims)
    found, inside = {claim: value for claim, value in claims.items() if not claim.startswith("kubernetes.io/")}, claims.get("kubernetes.io")
    for part, value in (inside if isinstance(inside, dict) else {}).items():
        leaves = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"kubernetes.io/{part}/{leaf}".removesuffix("/"): one for leaf, one in leaves}
    return found


def texts_of(name: ProviderName, claims: Mapping[str, Any]) -> dict[str, str]:
    """The same as text. A claim that is there and no text is NO_TEXT, which meets nothing."""
    return {claim: value if isinstance(value, str) else NO_TEXT for claim, value in by_path(name, claims).items()}
