using Virtbus.Platform;

namespace Virtbus.Daemon.Manifest;

/// <summary>A manifest that can't be used, with everything that is wrong in it; the message has a line for each error.</summary>
internal sealed class ManifestException(string file, IReadOnlyList<ManifestError> errors)
    : VirtbusException(Errno.EINVAL, string.Join('\n', errors.Select(e => e.ToString(file))))
{
    public IReadOnlyList<ManifestError> Errors { get; } = errors;
}
