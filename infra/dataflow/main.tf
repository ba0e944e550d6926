# What Dataflow jobs need in a project: bucket, image repository, an account with no more
# roles than it needs, and a network without a way in.
terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

variable "project" {
  type        = string
  description = "Id of the project."
}

variable "region" {
  type        = string
  description = "Where jobs run and tables lie; see README.md for quotas of GPUs."
}

variable "launchers" {
  type        = list(string)
  description = "Who may start jobs, such as user:ada@example.com."
  default     = []
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_project_service" "api" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "iam.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

# Models, data, tables, templates, and Dataflow's temporary files.
resource "google_storage_bucket" "this" {
  name                        = "${var.project}-featuretap"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  depends_on                  = [google_project_service.api]

  # deleted temporary files would else be kept, and paid for, for a week
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age            = 14
      matches_prefix = ["tmp/", "staging/"]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_artifact_registry_repository" "this" {
  repository_id = "featuretap"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.api]
}

resource "google_service_account" "worker" {
  account_id   = "featuretap-worker"
  display_name = "Workers and launchers of featuretap"
  depends_on   = [google_project_service.api]
}

resource "google_project_iam_member" "worker" {
  project = var.project
  role    = "roles/dataflow.worker"
  member  = google_service_account.worker.member
}

# The launcher of a Flex Template submits the job by this account.
resource "google_project_iam_member" "submitter" {
  project = var.project
  role    = "roles/dataflow.developer"
  member  = google_service_account.worker.member
}

resource "google_service_account_iam_member" "submitter" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker" {
  bucket = google_storage_bucket.this.name
  role   = "roles/storage.objectAdmin"
  member = google_service_account.worker.member
}

resource "google_artifact_registry_repository_iam_member" "worker" {
  repository = google_artifact_registry_repository.this.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.worker.member
}

resource "google_project_iam_member" "launcher" {
  for_each   = toset(var.launchers)
  project    = var.project
  role       = "roles/dataflow.developer"
  member     = each.key
  depends_on = [google_project_service.api]
}

resource "google_service_account_iam_member" "launcher" {
  for_each           = toset(var.launchers)
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = each.key
}

resource "google_storage_bucket_iam_member" "launcher" {
  for_each = toset(var.launchers)
  bucket   = google_storage_bucket.this.name
  role     = "roles/storage.objectAdmin"
  member   = each.key
}

# Workers have no public addresses: they reach Google's APIs, and nothing else.
resource "google_compute_network" "this" {
  name                    = "featuretap"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.api]
}

resource "google_compute_subnetwork" "this" {
  name                     = "featuretap"
  network                  = google_compute_network.this.id
  region                   = var.region
  ip_cidr_range            = "10.64.0.0/20"
  private_ip_google_access = true
}

# Dataflow's own rule, for the ports on which its workers talk to each other.
resource "google_compute_firewall" "workers" {
  name        = "featuretap-dataflow"
  network     = google_compute_network.this.id
  source_tags = ["dataflow"]
  target_tags = ["dataflow"]

  allow {
    protocol = "tcp"
    ports    = ["12345-12346"]
  }
}

output "bucket" {
  value = google_storage_bucket.this.name
}

output "service_account" {
  value = google_service_account.worker.email
}

output "subnetwork" {
  value = google_compute_subnetwork.this.self_link
}
