# An institution. From the repository's root: docker build -f containers/client.Dockerfile .
# --build-arg PYTHON_DIGEST=sha256:... is required; docs/deployment.md says how to get it.
ARG PYTHON_DIGEST
FROM python:3.12-slim@${PYTHON_DIGEST} AS build
WORKDIR /build
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
# Every file that is downloaded has one of the hashes in this list; setuptools, which builds ours, too.
COPY containers/client-requirements.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r client-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY fedkd fedkd
COPY client client
# fedkd/client is a link to that folder. What is not copied is not installed, and its link leads
# nowhere: no coordinator's code is in this image.
RUN pip install --no-cache-dir --no-deps --no-index --no-build-isolation . && pip check

FROM python:3.12-slim@${PYTHON_DIGEST}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fedkd \
    && install --directory --owner=10001 --group=10001 --mode=700 /state
COPY --from=build /venv /venv
# The root is read-only: what wants a home of its own gets a temporary one.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
USER 10001:10001
VOLUME ["/state"]
ENTRYPOINT ["fedkd-client"]
CMD ["--help"]
