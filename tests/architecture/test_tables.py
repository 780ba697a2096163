"""Who writes which table, and that what belongs to an organization is only looked at through it."""

import ast
import copy
import re
from collections.abc import Iterator

import pytest
from tests.architecture.source import MIGRATIONS, PACKAGE, Module, functions, literals, modules, table_names, tables

# Statements that are not scoped by the organization, by file and function: each with the reason why that is right.
UNSCOPED = {
    ("src/agentidp/ledger/snapshots.py", "_TABLES"): "the join that both readers scope: one by organization, one by the secret",
    ("src/agentidp/ledger/snapshots.py", "read_secret_snapshot"): "by the key inside the secret, which is unique and says whose it is",
    ("src/agentidp/ledger/snapshots.py", "read_client_keys"): "by the client, whose id is unique and says whose it is",
    ("src/agentidp/tokens/actions.py", "sweep_revoked_tokens"): "housekeeping: forgets revocations of expired tokens, whoever's they are; nothing is shown",
    ("src/agentidp/ledger/one_time.py", "sweep_one_time_values"): "housekeeping: forgets used values that nobody takes any longer, whoever's they are",
    ("src/agentidp/recovery.py", "find_newest_event_at"): "one instant over all tenants, for whoever restores the database",
    ("src/agentidp/ledger/retention.py", "find_cuts"): "housekeeping: a page of all organizations, each with its plan's retention",
    ("src/agentidp/ledger/retention.py", "_is_kept"): "housekeeping: whether any organization keeps something of a month",
    ("src/agentidp/ledger/activity.py", "sweep_activity"): "housekeeping: forgets what is older than a fixed number of days, whoever's it is",
    ("src/agentidp/ledger/heads.py", "organizations_to_sign"): "housekeeping: a page of the organizations whose chain grew since its last checkpoint",
    ("src/agentidp/ledger/sealing.py", "next_unsealed"): "one organization's id after another: whose events the sealer looks at next",
    ("src/agentidp/ledger/sealing.py", "release"): "a sealer's own leases, on whatever chains it has them",
    ("src/agentidp/webhooks/queues.py", "_SERVED"): "the join of those whom the dispatcher serves; its users say which rows",
    ("src/agentidp/webhooks/queues.py", "is_due"): "whether the dispatcher has something to do, for whomever",
    ("src/agentidp/webhooks/queues.py", "sweep"): "housekeeping: forgets what ended long ago and what belongs to deleted webhooks",
    ("src/agentidp/webhooks/queues.py", "count_dead_letters"): "one number over all tenants, without a label, for the operator",
    ("src/agentidp/webhooks/queues.py", "oldest_due"): "one instant over all tenants, for the operator",
    ("src/agentidp/ledger/following.py", "find_behind"): "housekeeping: a page of the organizations whose history has gone on since a follower was there",
    ("src/agentidp/ledger/following.py", "list_sizes"): "how many events each of the organizations has that somebody watches; each is told its own",
    ("src/agentidp/ledger/following.py", "take_up"): "housekeeping: the organizations that the follower of all does not follow yet",
    ("src/agentidp/worker.py", "_count_expiring"): "one number over all tenants, without a label, for the operator",
    ("src/agentidp/billing/queries.py", "list_due_reports"): "housekeeping: days of all customers that Stripe has not been told of",
    ("src/agentidp/organizations/queries.py", "list_organizations"): "the operator's list of all tenants; its scope is required where it is declared",
}
# Who may be the instance itself, and so look across organizations on PostgreSQL, too: by file, with the reason.
SYSTEM_CALLERS = {
    "src/agentidp/start.py": "nobody calls yet: keys, server secrets, the first organization",
    "src/agentidp/recovery.py": "as start, after a restore",
    "src/agentidp/db/copy.py": "every row goes from one engine to the other",
    "src/agentidp/auth/keys.py": "keys are the instance's",
    "src/agentidp/auth/data_keys.py": "keys are the instance's",
    "src/agentidp/cli/keys.py": "keys are the instance's",
    "src/agentidp/ledger/snapshots.py": "whose a presented secret is, only the secret says",
    "src/agentidp/ledger/sealer.py": "seals every organization's history",
    "src/agentidp/db/postgres.py": "a batch of the ledger holds entries of many organizations",
    "src/agentidp/ledger/feed.py": "how far the watched histories go, in one read for all",
    "src/agentidp/events/nats.py": "publishes every organization's history",
    "src/agentidp/worker.py": "housekeeping for all",
    "src/agentidp/organizations/api.py": "the operator's list of all tenants",
    "src/agentidp/webhooks/dispatch.py": "puts down deliveries and takes leases for all; then it acts in the webhook's organization",
    "src/agentidp/billing/api.py": "Stripe's events are kept before it is known whose they are",
    "src/agentidp/billing/applying.py": "finds out whose an event is; then it acts in that organization",
}
_WRITES = re.compile(r"\b(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE|DELETE\s+FROM)\s+\"?(\w+)", re.IGNORECASE)
_READS = re.compile(r"\b(?:FROM|JOIN|UPDATE)\s+(\"?\w+\"?(?:(?:\s+AS)?\s+\w+)?(?:\s*,\s*\w+)*)", re.IGNORECASE)
_STATEMENT = re.compile(r"\bSELECT\b.*\bFROM\b|\bUPDATE\b.*\bSET\b|\bDELETE\s+FROM\b", re.IGNORECASE | re.DOTALL)
_SCOPE = re.compile(r"organization_id\s*=|=\s*(?:\w+\.)?organization_id\b|USING\s*\(organization_id\b|\borganization_id\s+IN\b", re.IGNORECASE)


def product() -> list[Module]:
    return [module for module in modules("src") if not module.path.is_relative_to(MIGRATIONS)]


def test_every_table_names_an_owner_that_exists() -> None:
    slices = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert len(tables()) >= 9
    assert {table.name: table.owner for table in tables().values() if table.owner not in slices} == {}


def test_only_the_owner_writes_a_table() -> None:
    written = [(module, line, table) for module in product() for line, table in writes(module)]
    assert {table for _, _, table in written} == set(tables()), "a table that nobody writes, or a way of writing that this test does not see"
    foreign = [f"{module.name}:{line} writes {table}" for module, line, table in written if module.slice != tables()[table].owner]
    assert not foreign


def test_an_organization_changes_in_one_place_that_raises_its_revision() -> None:
    """Snapshots of an organization are found stale by its revision: an update without it would leave the tokens of a suspended one alive."""
    places = [(module.name, function) for module in product() for function in functions(module.tree) if _changes_organizations(function, table_names(module))]
    assert [(name, function.name) for name, function in places] == [("src/agentidp/organizations/actions.py", "_store")]
    assert "revision=organizations.c.revision + 1" in ast.unparse(places[0][1])


def _changes_organizations(function: ast.AST, names: dict[str, str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
            changed = {ast.unparse(part) for part in (node.func.value, *node.args[:1])}
            if "organizations" in {names.get(part) for part in changed}:
                return True
    return any(re.search(r"\bUPDATE\s+\"?organizations\b", text, re.IGNORECASE) for _, text in literals(function))


@pytest.mark.parametrize("statement", ["sa.update(organizations)", "organizations.update()", "text('update organizations SET name = ?')"])
def test_a_change_of_an_organization_is_seen(statement: str) -> None:
    text = f"from agentidp.db.schema import organizations\ndef change(tx):\n    return {statement}\n"
    module = Module(PACKAGE / "snippet.py", text, ast.parse(text))
    assert [_changes_organizations(function, table_names(module)) for function in functions(module.tree)] == [True]


def test_what_belongs_to_an_organization_is_read_through_it() -> None:
    loose = {(module.name, function): table for module in product() for function, table in unscoped(module)}
    unexplained = {place: table for place, table in loose.items() if place not in UNSCOPED}
    assert not unexplained, "scope the statement by organization_id, or list it in UNSCOPED with the reason"
    assert not UNSCOPED.keys() - loose.keys(), "these exceptions are no longer needed"


def test_who_may_look_across_organizations_is_listed() -> None:
    where_it_is_made = {"src/agentidp/core/caller.py", "src/agentidp/db/walls.py"}
    callers = {module.name for module in product() if module.name not in where_it_is_made for _ in _system_callers(module.tree)}
    assert callers == set(SYSTEM_CALLERS)


def test_no_sql_is_put_together_around_a_tables_name() -> None:
    """Such a statement would be read by none of these tests. What is left gives rights, and reads and writes nothing."""
    rows = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+\"?\{\}", re.IGNORECASE)
    verbs = re.compile(r"\b(?:SELECT|INSERT|UPDATE|DELETE)\b")
    found = {module.name for module in product() for _, text in literals(module.tree) if rows.search(text) and verbs.search(text)}
    assert found <= {"src/agentidp/db/walls.py"}


def test_tables_have_one_name_in_the_source() -> None:
    """By a second way to a table a statement would escape these tests; a local name for one is followed."""
    ways = re.compile(r"\b(?:metadata\.tables\[|sa\.table\(|sa\.Table\(|sa\.lateral\(|\w+\.(?:alias|tablesample)\(|import agentidp\.db\.schema)")
    found = {module.name for module in product() if ways.search(module.text)}
    assert found <= {"src/agentidp/db/schema.py", "src/agentidp/db/migrate.py", "src/agentidp/db/copy.py"}


@pytest.mark.parametrize(
    "statement",
    [
        "sa.select(agents)",
        "agents.select()",
        "agents.update().values(name='x')",
        "agents.delete()",
        "sa.select(agents).where(agents.c.organization_id == agents.c.organization_id)",
        "text('SELECT organization_id, email FROM agents')",
        "text('select email from agents where agent_id = ?')",
        "text('SELECT x FROM signing_keys, agents')",
        "sa.select(agents.c.email).where(agents.c.agent_id == agent_id)",
        "sa.select(sa.func.count()).select_from(agents)",
        "sa.select(agents).where(agents.c.organization_id == credentials.c.organization_id)",
        "sa.update(agents).where(agents.c.agent_id == agent_id).values(name='x')",
        "sa.select(sa.exists().where(agents.c.agent_id == agent_id))",
        "text('SELECT email FROM agents WHERE agent_id = ?')",
    ],
)
def test_an_unscoped_statement_is_seen(statement: str) -> None:
    assert list(unscoped(snippet(statement))) == [("find", "agents")]


@pytest.mark.parametrize(
    "statement",
    [
        "sa.select(agents).where(agents.c.organization_id == tx.caller.organization_id)",
        "sa.select(agents).join(credentials, credentials.c.organization_id == agents.c.organization_id).where(credentials.c.organization_id == mine)",
        "text('SELECT email FROM agents WHERE organization_id = ?')",
        "sa.select(signing_keys)",
    ],
)
def test_a_scoped_statement_is_left_alone(statement: str) -> None:
    assert not list(unscoped(snippet(statement)))


@pytest.mark.parametrize(
    "statement", ["sa.insert(agents)", "agents.update()", "postgresql.insert(agents)", "tx.insert_new(agents, name='x')", "text('DELETE FROM agents')"]
)
def test_a_write_is_seen(statement: str) -> None:
    assert [table for _, table in writes(snippet(statement))] == ["agents"]


def snippet(statement: str) -> Module:
    text = f"from agentidp.db.schema import agents, credentials, signing_keys\ndef find(tx, agent_id, mine):\n    return {statement}\n"
    return Module(PACKAGE / "snippet.py", text, ast.parse(text))


def writes(module: Module) -> Iterator[tuple[int, str]]:
    """Line and table of every statement that writes: through SQLAlchemy, through `insert_new`, or as text."""
    names = table_names(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            verb, target = node.func.attr, ast.unparse(node.func.value)
            argument = ast.unparse(node.args[0]) if node.args else ""
            if verb in {"insert", "update", "delete", "insert_new"} and (argument in names or target in names):
                yield node.lineno, names.get(argument) or names[target]
    for line, text in literals(module.tree):
        yield from ((line, name) for name in _WRITES.findall(text) if name in tables())


def unscoped(module: Module) -> Iterator[tuple[str, str]]:
    """Function and table of every statement that reaches an organization's rows without naming the organization.

    Tables that are joined by `organization_id` count as one; one comparison with a value is enough for all of them.
    """
    names = {local: name for local, name in table_names(module).items() if tables()[name].has_organization}
    for name, spelled in _statements(module.tree):
        statement = _without_local_names(spelled, names)
        anchored, links = _comparisons(statement, names)
        yield from ((name, table) for table in sorted(_sources(statement, names)) if not _reach(table, links) & anchored)
        for _, text in literals(statement):
            if _STATEMENT.search(text) and not _SCOPE.search(text):
                yield from ((name, table) for table in _tables_read(text) if table in tables() and tables()[table].has_organization)


def _without_local_names(statement: ast.AST, names: dict[str, str]) -> ast.AST:
    """With `secret = credential_secrets` or `head, event = audit_heads.c, audit_events.c`, what they stand for in the place of `secret`, `head` and `event`."""
    local: dict[str, ast.expr] = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = zip(target.elts, value.elts, strict=False) if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) else [(target, value)]
            local |= {ast.unparse(name): stands for name, stands in pairs if ast.unparse(stands).removesuffix(".c") in names}

    class Spelled(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return local.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    return Spelled().visit(copy.deepcopy(statement))  # type: ignore[no-any-return]


def _tables_read(text: str) -> Iterator[str]:
    for found in _READS.findall(text):
        yield from re.findall(r"\w+", found)


def _system_callers(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if (isinstance(node, ast.Name) and node.id == "SYSTEM") or (isinstance(node, ast.keyword) and node.arg == "is_system"):
            yield node


def _statements(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every function by its name, and what stands at the top of the module by the name that it gets."""
    yield from ((function.name, function) for function in functions(tree))
    yield from ((ast.unparse(node.targets[0]), node) for node in tree.body if isinstance(node, ast.Assign))


def _sources(function: ast.AST, names: dict[str, str]) -> set[str]:
    """The tables that the function's statements read from, change or delete from."""
    found = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in {"select", "select_from", "update", "delete"}:
            arguments = [*node.args, *([node.func.value] if ast.unparse(node.func.value) in names else [])]
        elif node.func.attr in {"join", "outerjoin"}:
            arguments = node.args[:1]
        elif node.func.attr == "where" and ast.unparse(node.func.value) == "sa.exists()":
            arguments = node.args
        else:
            continue
        found |= {names[ast.unparse(part)] for argument in arguments for part in ast.walk(argument) if ast.unparse(part) in names}
    return found


def _comparisons(function: ast.AST, names: dict[str, str]) -> tuple[set[str], list[set[str]]]:
    """The tables whose organization is compared with a value, and the pairs whose organizations are compared with each other."""
    anchored, links = set(), []
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq):
            sides = [ast.unparse(side).removesuffix(".c.organization_id") for side in (node.left, node.comparators[0])]
            columns = {names[side] for side, whole in zip(sides, (node.left, node.comparators[0]), strict=True) if side in names and side != ast.unparse(whole)}
            if len(columns) == 1 and ast.unparse(node.left) != ast.unparse(node.comparators[0]):
                anchored |= columns
            elif columns:
                links.append(columns)
    return anchored, links


def _reach(table: str, links: list[set[str]]) -> set[str]:
    reached = {table}
    for _ in links:
        reached = reached.union(*(pair for pair in links if pair & reached))
    return reached
