#!/usr/bin/env bash
# Downloads public request traces into a folder: scripts/fetch-traces.sh [FOLDER]
#
# They are not part of this repository: they are large, and under licences of their own (Mooncake and
# Bailian Apache-2.0; Azure and BurstGPT CC-BY-4.0, cite their papers). A file with a recorded checksum must
# match it; for the others the checksum is printed, to be compared by hand.
set -euo pipefail

folder=${1:-traces-public}

mooncake=https://raw.githubusercontent.com/kvcache-ai/Mooncake/main/FAST25-release/traces
azure=https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data
burstgpt=https://github.com/HPMLL/BurstGPT/releases/download/v1.1
# Stored with Git LFS: the usual raw address would give a pointer, not the file.
bailian=https://media.githubusercontent.com/media/alibaba-edu/qwen-bailian-usagetraces-anon/main

checksum() {
    if command -v sha256sum > /dev/null; then
        sha256sum "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 "$1" | cut -d ' ' -f 1
    fi
}

# fetch NAME URL [SHA256]
fetch() {
    local path="$folder/$1" url=$2 expected=${3:-} actual
    if [[ -e $path ]]; then
        echo "$1: already there"
        return
    fi
    echo "$1: downloading $url"
    curl --fail --location --silent --show-error --retry 3 --output "$path.partial" "$url"
    actual=$(checksum "$path.partial")
    if [[ -z $expected ]]; then
        echo "$1: no recorded checksum; sha256 is $actual"
    elif [[ $actual != "$expected" ]]; then
        echo "$1: sha256 is $actual, expected $expected; left as $path.partial" >&2
        return 1
    fi
    mv "$path.partial" "$path"
}

mkdir -p "$folder"
fetch mooncake_conversation.jsonl "$mooncake/conversation_trace.jsonl" \
    b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df
fetch mooncake_synthetic.jsonl "$mooncake/synthetic_trace.jsonl"
fetch mooncake_toolagent.jsonl "$mooncake/toolagent_trace.jsonl"
fetch azure_2023_code.csv "$azure/AzureLLMInferenceTrace_code.csv" \
    54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6
fetch azure_2023_conversation.csv "$azure/AzureLLMInferenceTrace_conv.csv" \
    2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8
fetch burstgpt_1.csv "$burstgpt/BurstGPT_1.csv"
for trace in qwen_traceA_blksz_16 qwen_traceB_blksz_16 qwen_thinking_blksz_16 qwen_coder_blksz_16; do
    fetch "bailian_$trace.jsonl" "$bailian/$trace.jsonl"
done
