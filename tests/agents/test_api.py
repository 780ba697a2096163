"""/agents over real HTTP on both engines."""

from tests.tenants import Tenant, registration


def test_registers_reads_changes_and_decommissions(tenant: Tenant) -> None:
    with tenant.admin.client() as client:
        created = client.post("/api/v1/agents", json=registration(email="Screener@Acme.example"))
        assert created.status_code == 201
        agent = created.json()
        assert agent["email"] == "screener@acme.example"
        assert agent["name"] == "screener"
        assert agent["status"] == "active"
        path = f"/api/v1/agents/{agent['agentId']}"
        assert client.get(path).json() == agent
        changed = client.patch(path, json={"owner": "somebody else", "capabilities": ["b:c", "a:*"]}).json()
        assert (changed["owner"], changed["capabilities"]) == ("somebody else", ["a:*", "b:c"])
        assert client.delete(path).status_code == 204
        assert client.get(path).json()["status"] == "decommissioned"
        assert client.patch(path, json={"owner": "x"}).json()["code"] == "AGENT_ALREADY_DECOMMISSIONED"
        assert client.delete(path).status_code == 409
