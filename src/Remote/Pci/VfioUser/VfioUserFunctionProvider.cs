using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>The functions that other processes serve over vfio-user, by the paths of their sockets.</summary>
public sealed class VfioUserFunctionProvider : IPciFunctionProvider
{
    /// <inheritdoc/>
    public string Name => "vfio-user";

    /// <inheritdoc/>
    public string NameDescription => "the absolute path of the socket of the process that serves it";

    /// <inheritdoc/>
    /// <remarks>A path that begins anywhere else would be the daemon's matter.</remarks>
    public bool IsName(string name) => Path.IsPathRooted(name);

    /// <summary>Connects to a function's server.</summary>
    /// <param name="path">Path of the server's socket.</param>
    /// <param name="options">What the server is told; <see cref="VfioUserClientOptions.Lost"/> and <see cref="VfioUserClientOptions.ServeMemory"/> are the function's own.</param>
    /// <param name="cancellationToken">Ends the wait for the server.</param>
    /// <returns>The function, in no slot.</returns>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="VirtbusException">As <see cref="VfioUserClient.Connect"/>; ENODEV: the device is no PCI function.</exception>
    public static RemoteFunction Connect(string path, VfioUserClientOptions? options = null, CancellationToken cancellationToken = default)
    {
        var link = new VfioUserLink(path, options ?? new VfioUserClientOptions(), cancellationToken);
        using var cancelled = link.CloseWhen(cancellationToken);
        RemoteFunction function;
        try
        {
            function = new RemoteFunction(link, NullLogger.Instance);
        }
        catch
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw;
        }

        if (!cancellationToken.IsCancellationRequested)
            return function;
        function.Dispose();
        throw new OperationCanceledException(cancellationToken);
    }

    /// <inheritdoc/>
    /// <returns>Always empty: a socket may be anywhere.</returns>
    public IReadOnlyList<string> List() => [];

    /// <inheritdoc/>
    /// <exception cref="VirtbusException">As <see cref="Connect"/>.</exception>
    public async ValueTask<IPciFunction> OpenAsync(string name, CancellationToken cancellationToken = default)
    {
        // The greeting waits for the server, and nobody else shall wait for that.
        return await Task.Run(() => Connect(name, cancellationToken: cancellationToken), CancellationToken.None);
    }
}
