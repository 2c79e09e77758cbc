const {Worker,isMainThread,parentPort,workerData}=require('worker_threads');
const fs=require('fs'), cp=require('child_process'), os=require('os'), path=require('path'), zlib=require('zlib'), crypto=require('crypto'), assert=require('assert');
if(process.argv[2]==='child'){process.send('from child');}
else if(isMainThread){
 (async()=>{
  const rs=await Promise.all([1,2,3,4].map(n=>new Promise((ok,no)=>{const w=new Worker(__filename,{workerData:n});w.on('message',ok);w.on('error',no);})));
  assert.deepStrictEqual(rs,[1,2,3,4].map(n=>{let s=0;for(let i=0;i<2e6*n;i++)s=(s+i*n)%1000003;return s}));
  const d=fs.mkdtempSync(path.join(os.tmpdir(),'n-'));
  for(let i=0;i<200;i++)fs.writeFileSync(path.join(d,'f'+i),'x'.repeat(i));
  assert.strictEqual((await fs.promises.readdir(d)).length,200);
  await Promise.all([...Array(200).keys()].map(i=>fs.promises.readFile(path.join(d,'f'+i),'utf8').then(t=>assert.strictEqual(t.length,i))));
  fs.rmSync(d,{recursive:true});
  assert.strictEqual(cp.execFileSync('echo',['hi']).toString(),'hi\n');
  const c=cp.spawn('sh',['-c','cat; exit 3']); c.stdin.end('abc'); let o='';c.stdout.on('data',x=>o+=x);
  await new Promise(r=>c.on('close',(code)=>{assert.strictEqual(code,3);assert.strictEqual(o,'abc');r();}));
  const z=await new Promise((ok,no)=>zlib.gzip(Buffer.alloc(1<<20,'a'),(e,b)=>e?no(e):ok(b)));assert.ok(z.length<5000);
  await new Promise((ok,no)=>crypto.pbkdf2('a','b',1000,32,'sha256',(e,k)=>e?no(e):ok(k)));
  await new Promise(r=>setTimeout(r,20));
  const net=require('net'); const sock=path.join(os.tmpdir(),'s'+process.pid);
  await new Promise((ok)=>{const s=net.createServer(c=>c.pipe(c)).listen(sock,()=>{const c=net.connect(sock);c.end('ping');let t='';c.on('data',d=>t+=d);c.on('end',()=>{assert.strictEqual(t,'ping');s.close(ok)})})});
  const http=require('http');
  await new Promise((ok,no)=>{const s=http.createServer((q,r)=>{let b='';q.on('data',d=>b+=d);q.on('end',()=>{r.setHeader('x-path',q.url);r.end(q.method+' '+b.length)})}).listen(0,'127.0.0.1',async()=>{
   const one=n=>new Promise((ok,no)=>{const q=http.request({host:'127.0.0.1',port:s.address().port,path:'/p'+n,method:'POST'},r=>{let t='';r.on('data',d=>t+=d);r.on('end',()=>{assert.strictEqual(r.headers['x-path'],'/p'+n);assert.strictEqual(t,'POST '+n*1000);ok()})});q.on('error',no);q.end('y'.repeat(n*1000))});
   try{await Promise.all([...Array(50).keys()].map(one));s.close(ok)}catch(e){no(e)}})});
  const child=cp.fork(__filename,['child']); await new Promise(ok=>child.on('message',m=>{assert.strictEqual(m,'from child');child.disconnect();ok()}));
  console.log('node ok');
 })().catch(e=>{console.error(e);process.exit(1)});
 if(process.argv[2]==='child'){process.send('from child');}
}else{let n=workerData,s=0;for(let i=0;i<2e6*n;i++)s=(s+i*n)%1000003;parentPort.postMessage(s);}
