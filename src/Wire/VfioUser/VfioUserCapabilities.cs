using System.Buffers;
using System.Text.Json;
using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>What one side says of itself in VERSION: JSON behind the version numbers. What is left out has the protocol's default.</summary>
internal sealed record VfioUserCapabilities
{
    /// <summary>QEMU takes a reply no longer than its request, which is 214 bytes with header and version.</summary>
    internal const int MaxReplyText = 190;

    internal int MaxDescriptors { get; init; } = 1;

    internal ulong MaxDataTransfer { get; init; } = VfioUserProtocol.MaxDataTransfer;

    internal ulong MaxDmaMaps { get; init; } = VfioUserProtocol.MaxDmaMaps;

    internal ulong PageSizes { get; init; } = VfioUserProtocol.PageSize;

    internal bool WriteMultiple { get; init; }

    /// <summary>Whether the page size and bitmap size of the migration are named; both have nothing that this side could choose.</summary>
    internal bool Migration { get; init; }

    internal bool TwinSocket { get; init; }

    /// <summary>Where among the reply's descriptors the twin socket is; -1 in a request.</summary>
    internal int TwinIndex { get; init; } = -1;

    /// <summary>Reads what follows the version numbers.</summary>
    /// <param name="text">NUL-terminated JSON, or nothing.</param>
    /// <param name="capabilities">What it says.</param>
    /// <param name="fault">EINVAL: no JSON, not terminated, or a value that the protocol does not have.</param>
    internal static bool TryParse(ReadOnlySpan<byte> text, out VfioUserCapabilities capabilities, out Fault fault)
    {
        capabilities = new VfioUserCapabilities();
        fault = Fault.None;
        if (text.IsEmpty)
            return true;
        var end = text.IndexOf((byte)0);
        if (end < 0)
            return VfioUserProtocol.Refuse(Errno.EINVAL, "the version's text has no NUL at its end", out fault);
        if (end == 0)
            return true;
        var reader = new Utf8JsonReader(text[..end]);
        try
        {
            if (!JsonDocument.TryParseValue(ref reader, out var document))
                return VfioUserProtocol.Refuse(Errno.EINVAL, "the version's text is no JSON", out fault);
            using (document)
            {
                if (reader.BytesConsumed != end && !IsBlank(text[(int)reader.BytesConsumed..end]))
                    return VfioUserProtocol.Refuse(Errno.EINVAL, "the version's text is no JSON", out fault);
                return TryParse(document.RootElement, ref capabilities, out fault);
            }
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            // No JSON, or an escaped name that is no text. The parser has no other way to say it; it happens once in a connection, before anything else does.
            return VfioUserProtocol.Refuse(Errno.EINVAL, "the version's text is no JSON", out fault);
        }
    }

    /// <summary>The NUL-terminated text.</summary>
    internal byte[] ToText()
    {
        var buffer = new ArrayBufferWriter<byte>(256);
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            json.WriteStartObject("capabilities"u8);
            json.WriteNumber("max_msg_fds"u8, MaxDescriptors);
            json.WriteNumber("max_data_xfer_size"u8, MaxDataTransfer);
            json.WriteNumber("max_dma_maps"u8, MaxDmaMaps);
            json.WriteNumber("pgsizes"u8, PageSizes);
            if (Migration)
            {
                json.WriteStartObject("migration"u8);
                json.WriteNumber("pgsize"u8, VfioUserProtocol.PageSize);
                json.WriteEndObject();
            }

            if (WriteMultiple)
                json.WriteBoolean("write_multiple"u8, true);
            if (TwinSocket)
            {
                json.WriteStartObject("twin_socket"u8);
                json.WriteBoolean("supported"u8, true);
                if (TwinIndex >= 0)
                    json.WriteNumber("fd_index"u8, TwinIndex);
                json.WriteEndObject();
            }

            json.WriteEndObject();
            json.WriteEndObject();
        }

        return [.. buffer.WrittenSpan, 0];
    }

    private static bool IsBlank(ReadOnlySpan<byte> text) => text.Trim(" \t\r\n"u8).IsEmpty;

    private static bool TryParse(JsonElement root, ref VfioUserCapabilities capabilities, out Fault fault)
    {
        fault = Fault.None;
        if (root.ValueKind != JsonValueKind.Object)
            return VfioUserProtocol.Refuse(Errno.EINVAL, "the version's text is no JSON object", out fault);
        if (!root.TryGetProperty("capabilities"u8, out var all))
            return true;
        if (all.ValueKind != JsonValueKind.Object)
            return VfioUserProtocol.Refuse(Errno.EINVAL, "the capabilities are no JSON object", out fault);
        foreach (var property in all.EnumerateObject())
        {
            var value = property.Value;
            var good = true;
            ulong number;
            // What is not known is left alone: a later version may say more of itself.
            if (property.NameEquals("max_msg_fds"u8))
            {
                good = TryNumber(value, out number);
                capabilities = capabilities with { MaxDescriptors = (int)Math.Min(number, UnixStream.MaxDescriptors) };
            }
            else if (property.NameEquals("max_data_xfer_size"u8))
            {
                good = TryNumber(value, out number) && number > 0;
                capabilities = capabilities with { MaxDataTransfer = number };
            }
            else if (property.NameEquals("max_dma_maps"u8))
            {
                good = TryNumber(value, out number);
                capabilities = capabilities with { MaxDmaMaps = number };
            }
            else if (property.NameEquals("pgsizes"u8))
            {
                good = TryNumber(value, out number) && number > 0 && number % VfioUserProtocol.PageSize == 0;
                capabilities = capabilities with { PageSizes = number };
            }
            else if (property.NameEquals("write_multiple"u8))
            {
                good = value.ValueKind is JsonValueKind.True or JsonValueKind.False;
                capabilities = capabilities with { WriteMultiple = value.ValueKind == JsonValueKind.True };
            }
            else if (property.NameEquals("migration"u8))
            {
                good = value.ValueKind == JsonValueKind.Object && (!value.TryGetProperty("pgsize"u8, out var size) ||
                    (TryNumber(size, out number) && number > 0 && number % VfioUserProtocol.PageSize == 0));
                capabilities = capabilities with { Migration = good };
            }
            else if (property.NameEquals("twin_socket"u8))
            {
                good = TryTwin(value, ref capabilities);
            }

            if (!good)
                return VfioUserProtocol.Refuse(Errno.EINVAL, "a capability has a value that it cannot have", out fault);
        }

        return true;
    }

    private static bool TryTwin(JsonElement value, ref VfioUserCapabilities capabilities)
    {
        if (value.ValueKind != JsonValueKind.Object)
            return false;
        if (!value.TryGetProperty("supported"u8, out var supported))
            return true;
        if (supported.ValueKind is not (JsonValueKind.True or JsonValueKind.False))
            return false;
        var index = 0UL;
        var named = value.TryGetProperty("fd_index"u8, out var at);
        if (named && (!TryNumber(at, out index) || index >= UnixStream.MaxDescriptors))
            return false;
        capabilities = capabilities with { TwinSocket = supported.GetBoolean(), TwinIndex = named ? (int)index : -1 };
        return true;
    }

    private static bool TryNumber(JsonElement value, out ulong number)
    {
        number = 0;
        return value.ValueKind == JsonValueKind.Number && value.TryGetUInt64(out number);
    }
}
