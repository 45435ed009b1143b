# One image for every Airflow process and every kind of worker.
FROM apache/airflow:3.3.2-python3.12

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

USER 0
# What the tasks call: copying (rsync, ssh), tape (mt, tar), sandboxed batch jobs (bwrap), fast compression (lbzip2,
# igzip, 7zz); and psql, for airflow-init.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        7zip \
        bubblewrap \
        isal \
        lbzip2 \
        mt-st \
        openssh-client \
        postgresql-client \
        rsync \
        tar \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*

USER 50000:0
COPY requirements.txt /requirements.txt
RUN pip install --no-cache-dir --require-hashes -r /requirements.txt

# The image stands alone, for workers on machines without a checkout; docker-compose.yaml mounts the checkout over it.
COPY --chown=airflow:0 include /opt/airflow/include
COPY --chown=airflow:0 plugins /opt/airflow/plugins
COPY --chown=airflow:0 dags /opt/airflow/dags
ENV PYTHONPATH=/opt/airflow/include:/opt/airflow/plugins:/opt/airflow/dags
