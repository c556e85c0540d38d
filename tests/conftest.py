"""For all tests: nothing calls home, and sums do not depend on the number of cores."""

from simulations.environment import quiet

quiet()

import torch  # noqa: E402 -- Flower, Ray and gRPC read their variables as they are imported

torch.set_num_threads(1)
