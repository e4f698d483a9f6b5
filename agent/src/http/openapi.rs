//! The specification (`OpenAPI` 3.1), made from the handlers and their answers.

use axum::Json;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::problem::Problem;
use super::{sandboxes, tags, usage};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dormouse usage",
        description = "Who used what, to the last byte-nanosecond. Every answer is of the org of the bearer token. \
                       What goes wrong is told as a problem (RFC 9457) with a stable reason code."
    ),
    paths(
        usage::usage,
        usage::of_sandbox,
        sandboxes::list,
        sandboxes::one,
        sandboxes::slices,
        tags::keys,
        tags::of_sandbox,
        tags::replace,
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Specification;

/// How requests say who asks.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// The specification, as it is served and as `packaging/openapi.json` has it.
pub fn document() -> utoipa::openapi::OpenApi {
    Specification::openapi()
}

/// `GET /api/openapi.json`.
pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
