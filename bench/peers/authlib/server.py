"""Authlib's authorization server on its usual stack: Flask, SQLAlchemy on SQLite, tokens kept in the database, JWT access tokens (RFC 9068).

FOLDER (of the database) and CLIENTS (how many) come from the environment; gunicorn runs `server:app`.
"""

import os
import time

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.integrations.sqla_oauth2 import OAuth2ClientMixin, OAuth2TokenMixin, create_query_client_func, create_save_token_func
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from joserfc.jwk import ECKey, KeySet

db = SQLAlchemy()


class OAuth2Client(db.Model, OAuth2ClientMixin):
    """As in Authlib's own example, without users."""

    __tablename__ = "oauth2_client"
    id = db.Column(db.Integer, primary_key=True)


class OAuth2Token(db.Model, OAuth2TokenMixin):
    """As in Authlib's own example; a JWT is longer than the mixin's column says, which SQLite does not mind."""

    __tablename__ = "oauth2_token"
    id = db.Column(db.Integer, primary_key=True)
    user_id = db.Column(db.Integer)


class ClientCredentialsGrant(grants.ClientCredentialsGrant):
    """Clients authenticate with HTTP Basic."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)


class TokenGenerator(JWTBearerTokenGenerator):
    """ES256, the key parsed once."""

    keys = KeySet([ECKey.generate_key("P-256", {"kid": "bench", "alg": "ES256", "use": "sig"}, private=True)])

    def get_jwks(self) -> dict:
        return self.keys


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{os.environ['FOLDER']}/authlib.db"
    db.init_app(app)
    server = AuthorizationServer(app, query_client=create_query_client_func(db.session, OAuth2Client), save_token=_save_token)
    server.register_grant(ClientCredentialsGrant)
    server.register_token_generator("default", TokenGenerator("http://127.0.0.1", alg="ES256"))

    @app.post("/oauth/token")
    def token() -> object:
        return server.create_token_response()

    with app.app_context():
        db.create_all()
        if db.session.query(OAuth2Client).count() == 0:
            db.session.add_all(_client(index) for index in range(int(os.environ["CLIENTS"])))
            db.session.commit()
    return app


def _save_token(token: dict, request: object) -> None:
    create_save_token_func(db.session, OAuth2Token)(token, request)


def _client(index: int) -> OAuth2Client:
    client = OAuth2Client(client_id=f"client-{index}", client_secret=f"secret-{index}-0123456789abcdef0123456789abcdef", client_id_issued_at=int(time.time()))
    client.set_client_metadata({"grant_types": ["client_credentials"], "scope": "agents:read tokens:read", "token_endpoint_auth_method": "client_secret_basic"})
    return client


app = create_app()
