from __future__ import annotations

from service.api.models import SendReply
from tests.api.client import GatewayClient, body


async def test_a_send_is_answered_as_documented(api: GatewayClient) -> None:
    response = await api.send(body(reference="order-17"))
    assert response.status_code == 200, response.text
    reply = SendReply.model_validate_json(response.content)
    print(response.headers, response.text, reply)
    print((await api.http.get(f"/v1/messages/{reply.message_id}")).text)
    print((await api.bulk({"recipients":["+15555550100","+447700900123","x"],"from":"MyApp","message":"x"})).text)
    print((await api.http.get(f"/v1/hlr/+15555550100")).text)
    print((await api.http.get(f"/readyz")).text)
    print((await api.http.get(f"/v1/nix")).text)
    print((await api.http.put(f"/v1/send")).text)
    print((await api.http.get(f"/metrics")).text[-1500:])
