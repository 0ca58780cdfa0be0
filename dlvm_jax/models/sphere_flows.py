"""Flows on the sphere S^2 as bijections with parameters: recursive ones and exponential-map ones.

Points are unit vectors [*batch, 3]; log-determinants are those of the area, so the base density is `curved.uniform_sphere(3)`.
A context changes nothing here: these flows are unconditional.
"""

import jax
import jax.numpy as jnp

from dlvm_jax.functional import spherical
from dlvm_jax.functional.flows import sphere
from dlvm_jax.models.bijections import Bijection
from dlvm_jax.models.density import Net
from dlvm_jax.models.flows import Scalar

__all__ = ["exponential", "recursive"]


def recursive(height_scalar: Scalar, angle_scalar: Scalar, net: Net) -> Bijection:
    """The height moves by a `Scalar` of [-1, 1], then the angle around the axis by a `Scalar` of the circle.

    height_scalar: its raw parameters are trained
    angle_scalar: its raw parameters come from the network
    net: the height [*batch, 1] before its move -> [*batch, angle_scalar.width]

    Source: Rezende et al. 2020, section 2.3 (with a spline of the interval and Moebius transformations its best row, MS).
    """

    def init(key):
        key_height, key_angle, key_net = jax.random.split(key, 3)
        return {
            "numbers": jnp.zeros(height_scalar.width),
            "height": height_scalar.init(key_height),
            "angle": angle_scalar.init(key_angle),
            "net": net.init(key_net),
        }

    def maps(params, move_height, move_angle):
        def height_map(height):
            raw_params = jnp.broadcast_to(params["numbers"], (*height.shape, height_scalar.width))
            return move_height(params["height"], height, raw_params)

        def angle_map(angle, height):
            return move_angle(params["angle"], angle, net.apply(params["net"], height[..., None]))

        return height_map, sphere.on_circle(angle_map)

    def forward(params, z, context=None):
        return sphere.recursive_sphere(z, *maps(params, height_scalar.forward, angle_scalar.forward))

    def inverse(params, x, context=None):
        return sphere.recursive_sphere_inverse(x, *maps(params, height_scalar.inverse, angle_scalar.inverse))

    return Bijection(init, forward, inverse)


MAX_SLOPE = 0.99  # of the potentials together: at 1 the map has points of slope zero


def exponential(components: int) -> Bijection:
    """Each point follows the gradient of a sum of K radial potentials (EMSRE); centres, strengths and widths are trained.

    The strengths are alpha = 0.99 softmax(a, 0)_{1..K}, so they are positive and their sum is below 1; beta = softplus(b), at
    first between 1 and 6.  `inverse` solves an equation.  Source: Rezende et al. 2020, section 2.3.
    """
    if components < 1:
        raise ValueError(f"an exponential-map flow needs at least one component, got {components}")

    def init(key):
        key_centres, key_beta = jax.random.split(key)
        beta = 1 + 5 * jax.random.uniform(key_beta, (components,))
        return {
            "centres": jax.random.normal(key_centres, (components, 3)),
            "alpha": jnp.zeros(components),
            "beta": jnp.log(jnp.expm1(beta)),
        }

    def gradient(params):
        rest = jnp.append(params["alpha"], 0.0)
        alpha, beta = MAX_SLOPE * jax.nn.softmax(rest)[:-1], jax.nn.softplus(params["beta"])
        return lambda x: sphere.radial_gradient(x, spherical.to_sphere(params["centres"]), alpha, beta)

    def forward(params, z, context=None):
        return sphere.exponential_map(z, gradient(params))

    def inverse(params, x, context=None):
        return sphere.exponential_map_inverse(x, gradient(params))

    return Bijection(init, forward, inverse)
