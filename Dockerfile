# Restores JPEG files on a CPU, as a user without rights. Needs no network once it is built.
#
#     docker build -t dmcnn .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/photos" dmcnn photo.jpg holiday/ -o cleaned/
#     docker run --rm --network host dmcnn --serve 8080
#
# The page of --serve listens on the loopback interface only, which --network host shares on Linux.
FROM python:3.12-slim AS build
WORKDIR /build
RUN python -m venv /opt/dmcnn
COPY requirements/container.txt requirements/
RUN /opt/dmcnn/bin/pip install --no-cache-dir --require-hashes -r requirements/container.txt
COPY setup.cfg setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY dmcnn_jax dmcnn_jax
COPY configs configs
RUN /opt/dmcnn/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim
RUN useradd --uid 1000 --create-home dmcnn
COPY --from=build /opt/dmcnn /opt/dmcnn
# Compiled programs would be lost with the container, and other users have no home in it.
ENV PATH=/opt/dmcnn/bin:$PATH DMCNN_JAX_CACHE=
USER dmcnn
WORKDIR /photos
ENTRYPOINT ["dmcnn-restore"]
CMD ["--help"]
