"""A DAG that waits for a job whose id comes with the run: `{"job_id": "job-12345"}`."""

from airflow.sdk import DAG, Param

from sutro_jobs import SutroJob

with DAG("wait_for_sutro_job", schedule=None, params={"job_id": Param("", type="string")}) as dag:
    SutroJob(task_id="wait", job_id="{{ params.job_id }}", seconds=7200)
